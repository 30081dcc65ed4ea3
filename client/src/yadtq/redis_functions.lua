#!lua name=yadtq_v1
-- The operations on task records, as Redis Functions: one call handles a batch of tasks of one shard, atomically.
--
-- Owns the transitions of a record (tests/model/operations.py is their specification, compared exhaustively), the status
-- indexes and the pushes to waiting clients. KEYS[1] is always the shard's meta hash; every other key is made from its
-- prefix, so that a call stays in one slot of a cluster. ARGV[1] is a flat msgpack array: a head, then the entries, field
-- after field (measured: 0.5 us a task, against 1.3 us for one argument a field). docs/redis.md describes keys and records.
-- Never: waits, loops without a bound, or fails a batch because one record is damaged (such a record counts as missing).

local BUILD = 1                              -- of this file; a client replaces an older one
local MAGIC = 0xA1                           -- first byte of a record; its low nibble is the record's version
local CTL = '<BBBBBI4I4i4dI4HHHI4'           -- magic s shown x v length a p e g seen lone replay nonce
local REST = '<dHHI4I4Hdddd'                 -- t0 #k #w #r #f #u t1 t2 o due, then those five strings
local BRIEF = '<dHHI4I4H'                    -- how REST begins
local CTL_LEN, HEAD_LEN = 39, 93
local Q, S, P, R, X, OK, KO, CX, Z = 1, 2, 3, 4, 5, 6, 7, 8, 9
local NAME = {'Q', 'S', 'P', 'R', 'X', 'OK', 'KO', 'CX', 'Z'}
local INLINE = 4096                          -- a longer result has a key of its own: claims must not load it
local PUSH_LIMIT = 65536                     -- bytes of one push; what does not fit is told without its value
local MAX_WAITERS = 64                       -- clients that wait for one task

-- Lua's libraries are not there yet while this file is being loaded: the first call of a function sets these
local call, pack, unpack_s, sub, byte, concat, floor
local function ready()
  call, pack, unpack_s = redis.call, struct.pack, struct.unpack
  sub, byte, concat, floor = string.sub, string.byte, table.concat, math.floor
end

-- ---- records -----------------------------------------------------------------------------------------------------
-- s shown x v a p e g seen lone replay nonce; nothing when the record is missing or no record of ours
local function control(raw)
  if not raw or #raw < HEAD_LEN then return nil end
  local magic, s, shown, x, v, length, a, p, e, g, seen, lone, replay, nonce = unpack_s(CTL, raw)
  if magic ~= MAGIC or length ~= #raw or s < Q or s > CX or shown < Q or shown > Z then return nil end
  return s, shown, x, v, a, p, e, g, seen, lone, replay, nonce
end

-- t0 t1 t2 o due k w r f u of a record that control() has accepted
local function rest(raw)
  local t0, nk, nw, nr, nf, nu, t1, t2, o, due, at = unpack_s(REST, raw, CTL_LEN + 1)
  local w = at + nk
  local r = w + nw
  local f = r + nr
  local u = f + nf
  return t0, t1, t2, o, due, sub(raw, at, w - 1), sub(raw, w, r - 1), sub(raw, r, f - 1), sub(raw, f, u - 1), sub(raw, u)
end

-- t0 k u alone: what most operations need of it
local function brief(raw)
  local t0, nk, _, _, _, nu = unpack_s(BRIEF, raw, CTL_LEN + 1)
  return t0, sub(raw, HEAD_LEN + 1, HEAD_LEN + nk), nu > 0 and sub(raw, -nu) or ''
end

-- a record from its fields; the second form keeps all that follows the control bytes of an older one
local function record(s, shown, x, v, a, p, e, g, seen, lone, replay, nonce, t0, t1, t2, o, due, k, w, r, f, u)
  return pack(CTL, MAGIC, s, shown, x, v, HEAD_LEN + #k + #w + #r + #f + #u, a, p, e, g, seen, lone, replay, nonce) ..
         pack(REST, t0, #k, #w, #r, #f, #u, t1, t2, o, due) .. k .. w .. r .. f .. u
end

local function changed(raw, s, shown, x, v, a, p, e, g, seen, lone, replay, nonce)
  return pack(CTL, MAGIC, s, shown, x, v, #raw, a, p, e, g, seen, lone, replay, nonce) .. sub(raw, CTL_LEN + 1)
end

-- ---- a batch: what is to be written, collected and written with as few commands as possible ------------------------
local function batch(meta)
  return {ns = sub(meta, 1, -2), set = {}, del = {}, push = {}, size = {},
          add = {by_name = {}, types = {}}, rem = {by_name = {}, types = {}}}
end

local function records(b, args, first, step)
  local keys, j, prefix = {}, 0, b.ns .. 't:'
  for i = first, #args, step do
    j = j + 1
    keys[j] = prefix .. args[i]
  end
  if j == 0 then return keys, {} end
  return keys, call('MGET', unpack(keys))
end

local function put(b, key, value)
  local n = #b.set
  b.set[n + 1], b.set[n + 2] = key, value
end

-- the list of ids that enter (or leave) the index of one clear number, state and type
local function index_list(lists, g, shown, k)
  if lists.g == g and lists.shown == shown and lists.k == k then return lists.last end
  local name = g .. ':' .. NAME[shown] .. ':' .. k
  local list = lists.by_name[name]
  if not list then
    list = {}
    lists.by_name[name] = list
    lists.types[g .. ':' .. k] = true
  end
  lists.g, lists.shown, lists.k, lists.last = g, shown, k, list
  return list
end

local function enter(b, g, shown, k, id, score)
  local list = index_list(b.add, g, shown, k)
  local n = #list
  list[n + 1], list[n + 2] = score, id
end

local function leave(b, g, shown, k, id)
  local list = index_list(b.rem, g, shown, k)
  list[#list + 1] = id
end

-- an index that is no sorted set is somebody's mistake in our name space: dropped, so that it costs no batch
local function index(command, key, list)
  local answer = redis.pcall(command, key, unpack(list))
  if type(answer) == 'table' and answer.err then
    if not string.find(answer.err, 'WRONGTYPE', 1, true) then error(answer) end
    call('DEL', key)
    if command ~= 'ZREM' then call(command, key, unpack(list)) end
  end
end

local function bin(s)
  return pack('>BI4', 0xc6, #s) .. s
end

local function str(s)
  if #s < 32 then return string.char(0xa0 + #s) .. s end
  return pack('>BH', 0xda, #s) .. s
end

-- tell each client in u (ids joined by commas) that the task has ended
local function tell(b, u, id, state, attempt, r, f)
  local head = '\149' .. str(id) .. str(state) .. pack('>BI4', 0xce, attempt)
  local full = head .. (r and r ~= '' and bin(r) or '\192') .. (f and f ~= '' and bin(f) or '\192')
  for client in string.gmatch(u, '[^,]+') do
    local list, size = b.push[client] or {}, b.size[client] or 0
    local text = size + #full <= PUSH_LIMIT and full or head .. '\192\192'
    list[#list + 1] = text
    b.push[client], b.size[client] = list, size + #text
  end
end

local function write(b)
  if #b.del > 0 then call('DEL', unpack(b.del)) end      -- first: a new life may bring a new long result
  if #b.set > 0 then call('MSET', unpack(b.set)) end
  for name, list in pairs(b.rem.by_name) do index('ZREM', b.ns .. 'i:' .. name, list) end
  for name, list in pairs(b.add.by_name) do index('ZADD', b.ns .. 'i:' .. name, list) end
  for name in pairs(b.add.types) do index('SADD', b.ns .. 'k', {name}) end
  for client, list in pairs(b.push) do
    call('PUBLISH', 'yadtq:r:' .. client, pack('>BH', 0xdc, #list) .. concat(list))
  end
end

local function clear_number(meta)
  return tonumber(call('HGET', meta, 'g') or 0) or 0
end

-- the fence of the partition, raised to e; stale is true when a later epoch owns it. -> stale, clear number
local function guard(meta, p, e)
  local field = 'f:' .. p
  local got = call('HMGET', meta, 'g', field)
  local fence = tonumber(got[2] or 0) or 0
  if fence > e then return true, 0, fence end
  if fence < e then call('HSET', meta, field, string.format('%.0f', e)) end
  return false, tonumber(got[1] or 0) or 0, e
end

local function now_ms()
  local t = call('TIME')
  return t[1] * 1000 + floor(t[2] / 1000)
end

-- the record under `raw` gives way to a new one: leave no value and no index entry behind. -> who waits for it still
local function displace(b, raw, id, gen)
  local s, shown, _, v, _, _, _, g = control(raw)
  if not s then return '' end
  if v == 1 then b.del[#b.del + 1] = b.ns .. 'v:' .. id end
  if g < gen then return '' end
  local _, k, u = brief(raw)
  leave(b, g, shown, k, id)
  return u
end

-- ---- submit: [now, limit, waiter] id g type t0 partition due -> one letter each: D done, C cleared, L too late -----
local function submit(keys, argv)
  local meta, a = keys[1], cmsgpack.unpack(argv[1])
  local oldest, waiter = a[1] - a[2], a[3]
  local gen, b, out, j = clear_number(meta), batch(meta), {}, 0
  local names, raws = records(b, a, 4, 6)
  for i = 4, #a, 6 do
    local id, g, k, t0, p, due = a[i], a[i + 1], a[i + 2], a[i + 3], a[i + 4], a[i + 5]
    j = j + 1
    local raw = raws[j]
    local s, shown, _, v, _, _, _, rg = control(raw)
    out[j] = 'D'
    if g < gen then
      out[j] = 'C'
    elseif s and rg >= gen and s ~= X then
      if waiter ~= '' then out[j] = 'W' end              -- known already: the waiter has to watch it
    elseif not (s and rg >= gen) and t0 < oldest then
      out[j] = 'L'
    else
      local wish = (s == X and rg >= gen) and 1 or 0
      local u = waiter
      if wish == 1 then
        leave(b, rg, shown, '', id)
      elseif v == 1 then
        b.del[#b.del + 1] = b.ns .. 'v:' .. id
      end
      local new = due >= 0 and S or Q
      put(b, names[j], record(new, new, wish, 0, 0, p, -1, g, 0, 0, 0, 0,
                               t0, 0, 0, -1, due, k, '', '', '', u))
      enter(b, g, new, k, id, t0)
    end
  end
  write(b)
  return concat(out)
end

-- ---- claim: [p, e, now, inline error of expired] id n g type t0 replay expired offset ------------------------------
-- -> {letters, then state, seen, lone of each U and E}: R run, U run as suspect, E settle, K skip, X stale, C cleared
local function claim(keys, argv)
  local meta, a = keys[1], cmsgpack.unpack(argv[1])
  local p, e, now = a[1], a[2], a[3]
  local stale, gen = guard(meta, p, e)
  if stale then return {string.rep('X', (#a - 3) / 8)} end
  local b, out, more, j = batch(meta), {}, {}, 0
  local names, raws = records(b, a, 4, 8)
  for i = 4, #a, 8 do
    local id, n, g, k, t0, replay, expired, off = a[i], a[i+1], a[i+2], a[i+3], a[i+4], a[i+5], a[i+6], a[i+7]
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
      elseif x == 1 then
        answer, ends = 'E', CX
      elseif expired == 1 then
        answer, ends, err = 'E', KO, argv[2]
      elseif s == P and n == ra and rp ~= p then
        answer = 'K'
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
      out[j] = answer
      if answer == 'U' or answer == 'E' then
        local m = #more
        more[m + 1], more[m + 2], more[m + 3] = ends or s, seen, lone
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
-- -> letters: D done, L late, X stale, C cleared
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
        if ends == R and x == 1 then ends, r = CX, '' end -- a cancel that was asked for stops the retries
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
