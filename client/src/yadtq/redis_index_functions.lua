-- ---- third part of the library: fences, clearing, indexes, expiry ----------------------------------------------------
-- Everything here that could be long takes a limit and is called again; nothing scans the key space.

-- the order of a sorted set's members with equal scores is that of their bytes; Lua's own < follows the locale
local function before(a, b)
  local n = math.min(#a, #b)
  for i = 1, n do
    local x, y = byte(a, i), byte(b, i)
    if x ~= y then return x < y end
  end
  return #a < #b
end

-- rank of the first member at or behind (score, id), or behind it if `after`; O(log n) even when all scores are equal
local function rank_of(key, score, id, after)
  local low = call('ZCOUNT', key, '-inf', string.format('(%.0f', score))
  local high = call('ZCOUNT', key, '-inf', string.format('%.0f', score))
  while low < high do
    local middle = floor((low + high) / 2)
    local member = call('ZRANGE', key, middle, middle)[1]
    if before(member, id) or (after and member == id) then low = middle + 1 else high = middle end
  end
  return low
end

-- the (clear number, type) pairs that ever had an index entry, sorted; each as {g, type}
local function registered(ns)
  local names, list = redis.pcall('SMEMBERS', ns .. 'k'), {}
  if names.err then return list end
  for _, name in ipairs(names) do
    local g, k = string.match(name, '^(%d+):(.*)$')
    if g then list[#list + 1] = {tonumber(g), k} end
  end
  table.sort(list, function(a, b)
    if a[1] ~= b[1] then return a[1] < b[1] end
    return before(a[2], b[2])
  end)
  return list
end

local function size(key)
  local n = redis.pcall('ZCARD', key)
  return type(n) == 'number' and n or 0
end

local function in_set(list)
  local set = {}
  for _, item in ipairs(list) do set[item] = true end
  return set
end

local function index_key(ns, g, state, k)
  return ns .. 'i:' .. string.format('%.0f', g) .. ':' .. NAME[state] .. ':' .. k
end

-- the sorted sets that hold the tasks shown in `states`: of one group, else of some types (of all when there are none).
-- Each as {key, state}. Every task of a group is in the index of its type as well, so those tell the clear numbers.
local function sources(ns, gen, states, types, group)
  local wanted, all, seen, found = in_set(types), #types == 0, {}, {}
  for _, pair in ipairs(registered(ns)) do
    local g, k = pair[1], pair[2]
    if g >= gen and (group ~= '' and not seen[g] or group == '' and (all or wanted[k])) then
      seen[g] = true
      for _, state in ipairs(states) do
        local key = group == '' and index_key(ns, g, state, k)
                    or string.format('%sig:%.0f:%s:%s', ns, g, NAME[state], group)
        if size(key) > 0 then found[#found + 1] = {key, state} end
      end
    end
  end
  return found
end

-- ---- fence: [p, e] -> the highest epoch seen ------------------------------------------------------------------------
local function fence(keys, argv)
  local a = cmsgpack.unpack(argv[1])
  local _, _, highest = guard(keys[1], a[1], a[2])
  return string.format('%.0f', highest)
end

-- ---- clearing -------------------------------------------------------------------------------------------------------
local function clear_numbers(keys)
  return {clear_number(keys[1]), call('HGET', keys[1], 'intent') or ''}
end

-- [target] and the intent as it is to be remembered ('' leaves it alone); never lowers, so a repeat changes nothing
local function raise_clear(keys, argv)
  local target = cmsgpack.unpack(argv[1])[1]
  if clear_number(keys[1]) < target then call('HSET', keys[1], 'g', string.format('%.0f', target)) end
  if argv[2] ~= '' then call('HSET', keys[1], 'intent', argv[2]) end
  return clear_number(keys[1])
end

-- [] and the intent: forgets it if it is still that one
local function forget_intent(keys, argv)
  if call('HGET', keys[1], 'intent') == argv[2] then call('HDEL', keys[1], 'intent') end
  return 1
end

-- [limit] -> records dropped, and index entries looked at (0: nothing older than the clear number is left)
local function drop_cleared(keys, argv)
  local meta, left = keys[1], math.min(cmsgpack.unpack(argv[1])[1], 1000)   -- what one unpack() below takes
  local gen, b, dropped, looked = clear_number(meta), batch(meta), 0, 0
  for _, pair in ipairs(registered(b.ns)) do
    local g, k = pair[1], pair[2]
    if g >= gen then break end
    for state = Q, Z do
      if left <= 0 then break end
      local key = index_key(b.ns, g, state, k)
      local ids = size(key) > 0 and call('ZRANGE', key, 0, left - 1) or {}
      if #ids > 0 then
        local names, raws = records(b, ids, 1, 1)
        local gone = {}
        for j, id in ipairs(ids) do
          local s, _, _, v, _, _, _, rg = control(raws[j])
          if s and rg < gen then
            gone[#gone + 1] = names[j]
            if v == 1 then gone[#gone + 1] = b.ns .. 'v:' .. id end
            if s ~= X and state ~= Z then dropped = dropped + 1 end
            local _, both = brief(raws[j])
            if split(both) ~= both then leave(b, g, state, both, id) end       -- its group's index
          end
        end
        if #gone > 0 then call('DEL', unpack(gone)) end
        call('ZREM', key, unpack(ids))
        looked, left = looked + #ids, left - #ids
      end
    end
    if left <= 0 then break end
    call('SREM', b.ns .. 'k', string.format('%.0f:%s', g, k))
  end
  write(b)
  return {dropped, looked}
end

-- ---- pages: [limit, newest first, since, until, score, id, states, types, group]; score < 0: from the start ----------
-- -> id, state, score of the next tasks of this shard in the order asked for
local function page(keys, argv)
  local meta, a = keys[1], cmsgpack.unpack(argv[1])
  local limit, newest, since, till, score, id = a[1], a[2] == 1, a[3], a[4], a[5], a[6]
  local found = {}
  for _, source in ipairs(sources(sub(meta, 1, -2), clear_number(meta), a[7], a[8], a[9])) do
    local key, state = source[1], source[2]
    local first, last
    if newest then
      if score >= 0 then last = rank_of(key, score, id, false) - 1
      else last = call('ZCOUNT', key, '-inf', till) - 1 end
      first = math.max(0, last - limit + 1)
    else
      if score >= 0 then first = rank_of(key, score, id, true)
      else first = call('ZCOUNT', key, '-inf', '(' .. since) end
      last = first + limit - 1
    end
    local list = last >= first and call('ZRANGE', key, first, last, 'WITHSCORES') or {}
    for i = 1, #list, 2 do
      local at = tonumber(list[i + 1])
      if at >= tonumber(since) and at <= tonumber(till) then found[#found + 1] = {list[i], state, at} end
    end
  end
  table.sort(found, function(x, y)
    if x[3] ~= y[3] then
      if newest then return x[3] > y[3] end
      return x[3] < y[3]
    end
    if newest then return before(y[1], x[1]) end
    return before(x[1], y[1])
  end)
  local out = {}
  for i = 1, math.min(limit, #found) do
    local n = #out
    out[n + 1], out[n + 2], out[n + 3] = found[i][1], found[i][2], found[i][3]
  end
  return out
end

-- [group, types] -> how many tasks are shown in each state, in the order of NAME
local function counts(keys, argv)
  local a, out = cmsgpack.unpack(argv[1]), {0, 0, 0, 0, 0, 0, 0, 0, 0}
  for _, source in ipairs(sources(sub(keys[1], 1, -2), clear_number(keys[1]), {Q, S, P, R, X, OK, KO, CX, Z}, a[2],
                                  a[1])) do
    out[source[2]] = out[source[2]] + size(source[1])
  end
  return out
end

-- ---- expiry -------------------------------------------------------------------------------------------------------
-- drop at most `limit` records of a hidden index (tombstones Z, wishes X) entered there before `cut`
local function drop_old(b, g, k, state, cut, limit)
  local key = index_key(b.ns, g, state, k)
  if size(key) == 0 then return 0 end
  local ids = call('ZRANGEBYSCORE', key, '-inf', cut, 'LIMIT', 0, limit)
  if #ids == 0 then return 0 end
  local names, raws = records(b, ids, 1, 1)
  local gone = {}
  for j in ipairs(ids) do
    local s, shown, _, _, _, _, _, rg = control(raws[j])
    if s and shown == state and rg == g then gone[#gone + 1] = names[j] end
  end
  if #gone > 0 then call('DEL', unpack(gone)) end
  call('ZREM', key, unpack(ids))
  return #gone
end

-- one index of ended tasks: the values of those that are old and committed are dropped, a tombstone is left until no copy
-- of the message can come again. -> done, looked at, score and id of the last one looked at
local function bury(b, gen, g, k, state, args)
  local now, cut, limit, committed = args.now, args.cut, args.limit, args.committed
  local key = index_key(b.ns, g, state, k)
  if size(key) == 0 then return 0, 0 end
  local first = args.score >= 0 and rank_of(key, args.score, args.id, true) or 0
  local list = call('ZRANGE', key, first, first + limit - 1, 'WITHSCORES')
  local ids, scores = {}, {}
  for i = 1, #list, 2 do
    if tonumber(list[i + 1]) > cut then break end        -- submitted later than that: can't have ended before
    ids[#ids + 1], scores[#scores + 1] = list[i], tonumber(list[i + 1])
  end
  if #ids == 0 then return 0, 0 end
  local done = 0
  local names, raws = records(b, ids, 1, 1)
  for j, id in ipairs(ids) do
    local s, shown, x, v, ra, p, e, rg, seen, lone, life, nonce = control(raws[j])
    if not s or rg ~= g or shown ~= state then
      leave(b, g, state, k, id)                           -- an entry without its record: nobody else would remove it
      done = done + 1
    else
      local t0, t1, t2, o, due, both, _, _, _, u = rest(raws[j])
      if t2 <= cut and o >= 0 and committed[p] and o < committed[p] then
        if v == 1 then b.del[#b.del + 1] = b.ns .. 'v:' .. id end
        put(b, names[j], record(s, Z, x, 2, ra, p, e, rg, seen, lone, life, nonce,
                                 t0, t1, t2, o, due, '', '', '', '', u))
        leave(b, g, state, both, id)
        enter(b, g, Z, '', id, now)
        done = done + 1
      end
    end
  end
  return done, #ids, scores[#ids], ids[#ids]
end

-- [now, ttl cut, tombstone cut, limit, where the last call stopped: index, score, id] partition, committed offset ...
-- -> done, then where this call stopped ('' when it went through all)
local function expire(keys, argv)
  local meta, a = keys[1], cmsgpack.unpack(argv[1])
  local resume = a[5]
  local args = {now = a[1], cut = a[2], limit = a[4], score = a[6], id = a[7], committed = {}}
  for i = 8, #a, 2 do args.committed[a[i]] = a[i + 1] end
  local gen, b, done = clear_number(meta), batch(meta), 0
  local pairs_ = registered(b.ns)
  if resume == '' then
    for _, pair in ipairs(pairs_) do
      if pair[1] >= gen and pair[2] == '' then
        done = done + drop_old(b, pair[1], '', Z, a[3], args.limit) + drop_old(b, pair[1], '', X, a[2], args.limit)
      end
    end
  end
  local waiting, stop = resume ~= '', {'', -1, ''}
  for _, pair in ipairs(pairs_) do
    local g, k, empty = pair[1], pair[2], true
    if g >= gen then
      for state = OK, CX do
        local name = string.format('%.0f:%d:%s', g, state, k)
        if waiting and name == resume then waiting = false
        elseif not waiting then args.score = -1 end
        if not waiting and args.limit > 0 and stop[1] == '' then
          local n, looked, score, id = bury(b, gen, g, k, state, args)
          done = done + n
          args.limit = args.limit - looked
          if args.limit <= 0 then stop = {name, score, id} end
        end
      end
      for state = Q, Z do empty = empty and size(index_key(b.ns, g, state, k)) == 0 end
      if empty then call('SREM', b.ns .. 'k', string.format('%.0f:%s', g, k)) end
    end
  end
  write(b)
  return {done, stop[1], string.format('%.0f', stop[2]), stop[3]}
end

-- ---- what is callable -----------------------------------------------------------------------------------------------
local READ = {'no-writes'}
local function register(name, callback, flags)
  local function run(keys, argv)
    if not call then ready() end
    return callback(keys, argv)
  end
  redis.register_function{function_name = 'yadtq1_' .. name, callback = run, flags = flags or {}}
end

register('build', function() return BUILD end, READ)
register('submit', submit)
register('claim', claim)
register('started', started)
register('finish', finish)
register('cancel', cancel)
register('lone_run', lone_run)
register('fence', fence)
register('raise_clear', raise_clear)
register('forget_intent', forget_intent)
register('watch', watch)
register('read', read, READ)
register('cancel_asked', cancel_asked, READ)
register('clear_numbers', clear_numbers, READ)
register('page', page, READ)
register('counts', counts, READ)
register('drop_cleared', drop_cleared, {'allow-oom'})    -- these free memory, and so must work when there is none left
register('expire', expire, {'allow-oom'})
