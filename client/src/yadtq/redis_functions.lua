-- ---- second part of the library: the life of a task, operation by operation -----------------------------------------

-- ---- submit: [now, limit, waiter] id g type t0 partition due replay -> a letter each: D done, C cleared, L too late --
local function submit(keys, argv)
  local meta, a = keys[1], cmsgpack.unpack(argv[1])
  local oldest, waiter = a[1] - a[2], a[3]
  local gen, b, out, j = clear_number(meta), batch(meta), {}, 0
  local names, raws = records(b, a, 4, 7)
  for i = 4, #a, 7 do
    local id, g, k, t0, p, due, replay = a[i], a[i + 1], a[i + 2], a[i + 3], a[i + 4], a[i + 5], a[i + 6]
    j = j + 1
    local raw = raws[j]
    local s, shown, _, v, _, _, _, rg, _, _, life = control(raw)
    local known = s and rg >= gen
    out[j] = 'D'
    if g < gen then
      out[j] = 'C'
    elseif known and s ~= X and life >= replay then
      if waiter ~= '' then out[j] = 'W' end              -- known already: the waiter has to watch it
    elseif not known and replay == 0 and t0 < oldest then
      out[j] = 'L'
    else
      local wish, u = 0, waiter
      if known and life < replay then                     -- a dead letter's new life: as good as missing
        local others = displace(b, raw, id, gen)
        if others ~= '' then u = u == '' and others or others .. ',' .. u end
      elseif known then                                   -- X: the wish to cancel it is kept
        wish = 1
        leave(b, rg, shown, '', id)
      elseif v == 1 then
        b.del[#b.del + 1] = b.ns .. 'v:' .. id
      end
      local new = due >= 0 and S or Q
      put(b, names[j], record(new, new, wish, 0, 0, p, -1, g, 0, 0, replay, 0,
                               t0, 0, 0, -1, due, k, '', '', '', u))
      enter(b, g, new, k, id, t0)
    end
  end
  write(b)
  return concat(out)
end

-- ---- claim: [p, e, now, inline error of expired] id n g type t0 replay expired offset stays ------------------------
-- -> {letters, then state, seen, lone of each U and E; attempt, seen, lone of each I and J; attempt, due, 0 of each W}:
-- R run, U run as suspect, I and J the same for a later attempt, W wait for that, E settle, K skip, X stale, C cleared
local function claim(keys, argv)
  local meta, a = keys[1], cmsgpack.unpack(argv[1])
  local p, e, now = a[1], a[2], a[3]
  local stale, gen = guard(meta, p, e)
  if stale then return {string.rep('X', (#a - 3) / 9)} end
  local b, out, more, j = batch(meta), {}, {}, 0
  local names, raws = records(b, a, 4, 9)
  for i = 4, #a, 9 do
    local id, n, g, k, t0, replay, expired, off = a[i], a[i+1], a[i+2], a[i+3], a[i+4], a[i+5], a[i+6], a[i+7]
    local stays = a[i+8] == 1                             -- its retries stay at its place in the log
    j = j + 1
    local raw = raws[j]
    local s, shown, x, v, ra, rp, re, rg, seen, lone, life, nonce = control(raw)
    if g < gen then
      out[j] = 'C'
    else
      local u = ''
      if s and (rg < gen or life < replay) then           -- cleared, or a dead letter's new life: as good as missing
        u = displace(b, raw, id, gen)
        s = nil
      end
      local answer, ends, err = 'R', nil, ''
      local resumed = s and stays and life == replay and n < ra
      if resumed then n = ra end                          -- the message is of all its attempts: the record says which
      if not s then
        if expired == 1 then
          answer, ends, err = 'E', KO, argv[2]
        else
          put(b, names[j], record(P, Q, 0, 0, n, p, e, g, 0, 0, replay, 0,
                               t0, 0, 0, -1, -1, k, '', '', '', u))
          enter(b, g, Q, k, id, t0)
        end
      elseif life > replay then
        answer = 'K'
      elseif s >= OK then
        answer = (ra == n or s == CX) and 'E' or 'K'
        if s == CX then                                   -- its message is here: from now on it may expire
          local t0_, t1_, t2_, o_, due_, k_, w_, r_, f_, u_ = rest(raw)
          if o_ < 0 and off >= 0 then
            put(b, names[j], record(s, shown, x, v, ra, p, re, rg, seen, lone, life, nonce,
                               t0_, t1_, t2_, off, due_, k_, w_, r_, f_, u_))
          end
        end
      elseif s == P and ra == n and rp == p and re > e then
        answer = 'X'
      elseif n < ra then
        answer = (s == R and ra == n + 1) and 'E' or 'K'
      elseif rp ~= p and n == ra and (s == P or s == R and stays) then
        answer = 'K'                                      -- before all else: its body may run there, or will
      elseif x == 1 then
        answer, ends = 'E', CX
      elseif expired == 1 then
        answer, ends, err = 'E', KO, argv[2]
      elseif s == R and stays and n == ra and rest_due(raw) > now then
        answer = 'W'
      else
        if s == P and n == ra and re < e then answer = 'U' end
        local show = shown == P and P or Q
        put(b, names[j], changed(raw, P, show, 0, 0, n, p, e, g, seen, lone, life, nonce))
        if show ~= shown or g ~= rg then
          local t0_, k_ = brief(raw)
          leave(b, rg, shown, k_, id)
          enter(b, g, show, k_, id, t0_)
        end
      end
      if ends then                                        -- CANCELLED or expired here and now
        local t1, w, due = 0, '', -1
        if s then
          local ot0, ot1, _, _, odue, ok, ow, _, _, ou = rest(raw)
          t1, w, u, due = ot1, ow, ou, odue
          leave(b, rg, shown, ok, id)
          if s ~= X then t0, k = ot0, ok end
        else
          seen, lone, life, rp, re, rg = 0, 0, replay, p, -1, g
        end
        local token = e                                   -- a cancelled task keeps the epoch of the claim it had
        if ends == CX then token = s == P and re or -1 end
        put(b, names[j], record(ends, ends, ends == CX and 1 or 0, 0, n, p, token, rg, seen, lone, life, 0,
                               t0, t1, now, off, due, k, w, '', err, ''))
        enter(b, rg, ends, k, id, t0)
        tell(b, u, id, NAME[ends], n, nil, err)
      end
      if resumed and answer == 'R' then answer = 'I' end
      if resumed and answer == 'U' then answer = 'J' end
      out[j] = answer
      local m = #more
      if answer == 'U' or answer == 'E' then
        more[m + 1], more[m + 2], more[m + 3] = ends or s, seen, lone
      elseif answer == 'I' or answer == 'J' then
        more[m + 1], more[m + 2], more[m + 3] = n, seen, lone
      elseif answer == 'W' then
        more[m + 1], more[m + 2], more[m + 3] = n, rest_due(raw), 0
      end
    end
  end
  write(b)
  return {concat(out), unpack(more)}
end

-- ---- started: [p, e, worker] id n t1 -> D shown as PROCESSING, A shown and a cancel is asked, L not ours, C, X ------
local function started(keys, argv)
  local meta, a = keys[1], cmsgpack.unpack(argv[1])
  local p, e, worker = a[1], a[2], a[3]
  local stale, gen = guard(meta, p, e)
  if stale then return string.rep('X', (#a - 3) / 3) end
  local b, out, j = batch(meta), {}, 0
  local names, raws = records(b, a, 4, 3)
  for i = 4, #a, 3 do
    local id, n, t1 = a[i], a[i + 1], a[i + 2]
    j = j + 1
    local raw = raws[j]
    local s, shown, x, v, ra, rp, re, g, seen, lone, life, nonce = control(raw)
    if s and g < gen then
      out[j] = 'C'
    elseif not (s == P and ra == n and rp == p and re == e) then
      out[j] = 'L'
    else
      out[j] = x == 1 and 'A' or 'D'
      local t0, _, t2, o, due, k, _, r, f, u = rest(raw)
      put(b, names[j], record(P, P, x, v, ra, rp, re, g, seen, lone, life, nonce,
                               t0, t1, t2, o, due, k, worker, r, f, u))
      if shown ~= P then
        leave(b, g, shown, k, id)
        enter(b, g, P, k, id, t0)
      end
    end
  end
  write(b)
  return concat(out)
end

-- ---- finish: [p, e, worker] id n g type t0 end offset t1 t2 replay due has_result has_error; the values in ARGV[2..] --
-- -> letters: D done, N done as cancelled instead of retried, L late, X stale, C cleared
local function finish(keys, argv)
  local meta, a = keys[1], cmsgpack.unpack(argv[1])
  local p, e, worker = a[1], a[2], a[3]
  local stale, gen = guard(meta, p, e)
  if stale then return string.rep('X', (#a - 3) / 13) end
  local b, out, j, arg = batch(meta), {}, 0, 1
  local names, raws = records(b, a, 4, 13)
  for i = 4, #a, 13 do
    local id, n, g, k, t0, ends = a[i], a[i+1], a[i+2], a[i+3], a[i+4], a[i+5]
    local off, t1, t2, replay, due = a[i+6], a[i+7], a[i+8], a[i+9], a[i+10]
    local r, f = '', ''
    if a[i+11] == 1 then arg = arg + 1; r = argv[arg] end
    if a[i+12] == 1 then arg = arg + 1; f = argv[arg] end
    j = j + 1
    local raw = raws[j]
    local s, shown, x, v, ra, rp, re, rg, seen, lone, life = control(raw)
    if g < gen then
      out[j] = 'C'
    else
      local u = ''
      if s and (rg < gen or life < replay) then
        u = displace(b, raw, id, gen)
        s = nil
      end
      if not s then
        x, seen, lone, life = 0, 0, 0, replay
      end
      if s and (s >= OK or n < ra or life > replay) then
        out[j] = 'L'
      elseif s == P and n == ra and rp == p and re > e then
        out[j] = 'X'
      else
        out[j] = 'D'
        if s then
          local ot0, ok, ou = brief(raw)
          u = ou
          leave(b, rg, shown, ok, id)
          if s ~= X then t0, k = ot0, ok end
        end
        local apart = 0
        if ends == R and x == 1 then ends, r, out[j] = CX, '', 'N' end   -- a cancel that was asked for stops the retries
        if ends == R then
          put(b, names[j], record(R, R, 0, 0, n + 1, p, -1, g, seen, lone, life, 0,
                               t0, t1, 0, -1, due, k, worker, '', f, u))
        else
          local kept = r
          if #r > INLINE then
            put(b, b.ns .. 'v:' .. id, r)
            apart, kept = 1, ''
          end
          put(b, names[j], record(ends, ends, 0, apart, n, p, e, g, seen, lone, life, 0,
                               t0, t1, t2, off, due, k, worker, kept, f, ''))
          if u ~= '' then tell(b, u, id, NAME[ends], n, r, f) end
        end
        enter(b, g, ends, k, id, t0)
      end
    end
  end
  write(b)
  return concat(out)
end

-- ---- cancel: [] id -> letters: D confirmed, A asked, E ended -------------------------------------------------------
local function cancel(keys, argv)
  local meta, a = keys[1], cmsgpack.unpack(argv[1])
  local gen, now, b, out = clear_number(meta), now_ms(), batch(meta), {}
  local names, raws = records(b, a, 1, 1)
  for j = 1, #a do
    local id, raw = a[j], raws[j]
    local s, shown, x, v, ra, rp, re, g, seen, lone, life, nonce = control(raw)
    if not s or g < gen then
      displace(b, raw, id, gen)
      put(b, names[j], record(X, X, 1, 0, 0, -1, -1, gen, 0, 0, 0, 0,
                               now, 0, 0, -1, -1, '', '', '', '', ''))
      enter(b, gen, X, '', id, now)
      out[j] = 'A'
    elseif s >= OK then
      out[j] = 'E'
    elseif s == X or s == P then
      put(b, names[j], changed(raw, s, shown, 1, v, ra, rp, re, g, seen, lone, life, nonce))
      out[j] = 'A'
    else
      local t0, t1, _, _, due, k, w, _, _, u = rest(raw)
      put(b, names[j], record(CX, CX, x, 0, ra, rp, -1, g, seen, lone, life, 0,
                               t0, t1, now, -1, due, k, w, '', '', ''))
      leave(b, g, shown, k, id)
      enter(b, g, CX, k, id, t0)
      tell(b, u, id, 'CX', ra)
      out[j] = 'D'
    end
  end
  write(b)
  return concat(out)
end

-- ---- lone runs: [p, e, id, n, what (0 begin, 1 seen to end, 2 seen to crash), nonce] -> {seen, lone} or {} ----------
local function lone_run(keys, argv)
  local meta, a = keys[1], cmsgpack.unpack(argv[1])
  local p, e, id, n, what, nonce = a[1], a[2], a[3], a[4], a[5], a[6]
  local stale, gen = guard(meta, p, e)
  if stale then return {-1} end
  local b = batch(meta)
  local key = b.ns .. 't:' .. id
  local raw = call('MGET', key)[1]
  local s, shown, x, v, ra, rp, re, g, seen, lone, life, last = control(raw)
  if not (s == P and g >= gen and ra == n and rp == p and re == e) then return {} end
  if nonce ~= last then                                   -- else this very call was repeated
    if what == 0 then lone = math.min(lone + 1, 65535) else lone = 0 end
    if what == 2 then seen = math.min(seen + 1, 65535) end
    put(b, key, changed(raw, s, shown, x, v, ra, rp, re, g, seen, lone, life, nonce))
    write(b)
  end
  return {seen, lone}
end

-- ---- reading ------------------------------------------------------------------------------------------------------
local function visible(raw, gen)
  local s, _, _, _, _, _, _, g = control(raw)
  return s ~= nil and g >= gen and s ~= X
end

-- [] id -> the record's bytes, or nothing
local function read(keys, argv)
  local a, b = cmsgpack.unpack(argv[1]), batch(keys[1])
  local gen = clear_number(keys[1])
  local _, raws = records(b, a, 1, 1)
  for j = 1, #a do raws[j] = visible(raws[j], gen) and raws[j] end      -- false, never nil: a hole would end the array
  return raws
end

-- [client] id -> the record's bytes once it has ended (or when too many wait), nothing if unknown, else 1: registered
local function watch(keys, argv)
  local a, b = cmsgpack.unpack(argv[1]), batch(keys[1])
  local gen, client, out = clear_number(keys[1]), a[1], {}
  local names, raws = records(b, a, 2, 1)
  for j = 1, #a - 1 do
    local raw = raws[j]
    local s, shown, x, v, ra, p, e, g, seen, lone, life, nonce = control(raw)
    local known = s ~= nil and g >= gen and s ~= X
    out[j] = known and raw
    if known and s < OK then
      local t0, t1, t2, o, due, k, w, r, f, u = rest(raw)
      local n = 0
      for other in string.gmatch(u, '[^,]+') do
        n = n + 1
        if other == client then out[j] = 1 end
      end
      if out[j] ~= 1 and n < MAX_WAITERS then
        out[j] = 1
        put(b, names[j], record(s, shown, x, v, ra, p, e, g, seen, lone, life, nonce,
                                t0, t1, t2, o, due, k, w, r, f, u == '' and client or u .. ',' .. client))
      end
    end
  end
  write(b)
  return out
end

-- [] id -> letters: Y a cancel was asked for, N not
local function cancel_asked(keys, argv)
  local a, b, out = cmsgpack.unpack(argv[1]), batch(keys[1]), {}
  local gen = clear_number(keys[1])
  local _, raws = records(b, a, 1, 1)
  for j = 1, #a do
    local s, _, x, _, _, _, _, g = control(raws[j])
    out[j] = s and g >= gen and (x == 1 or s == CX) and 'Y' or 'N'
  end
  return concat(out)
end
