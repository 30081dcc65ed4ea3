#!lua name=yadtq_v1
-- The operations on task records, as Redis Functions: one call handles a batch of tasks of one shard, atomically. First
-- of three parts, loaded as one text: records and batches here, operations in redis_functions.lua, then indexes and expiry.
--
-- Owns the transitions of a record (tests/model/operations.py is their specification, compared exhaustively), the status
-- indexes and the pushes to waiting clients. KEYS[1] is always the shard's meta hash; every other key is made from its
-- prefix, so that a call stays in one slot of a cluster. ARGV[1] is a flat msgpack array: a head, then the entries, field
-- after field (measured: 0.5 us a task, against 1.3 us for one argument a field). docs/redis.md describes keys and records.
-- Never: waits, loops without a bound, or fails a batch because one record is damaged (such a record counts as missing).

local BUILD = '1:DIGEST'                     -- version, and digest of the text (put in when it is loaded): which one is here
local MAGIC = 0xA1                           -- first byte of a record; its low nibble is the record's version
local CTL = '<BBBBBI4I4i4dI4HHHI4'           -- magic s shown x v length a p e g seen lone replay nonce
local REST = '<dHHI4I4Hdddd'                 -- t0 #k #w #r #f #u t1 t2 o due, then those five strings
                                             -- k: the task's type, and behind a zero byte its group if it has one
local BRIEF = '<dHHI4I4H'                    -- how REST begins
local CTL_LEN, HEAD_LEN = 39, 93
local Q, S, P, R, X, OK, KO, CX, Z = 1, 2, 3, 4, 5, 6, 7, 8, 9
local NAME = {'Q', 'S', 'P', 'R', 'X', 'OK', 'KO', 'CX', 'Z'}
local INLINE = 4096                          -- a longer result has a key of its own: claims must not load it
local PUSH_LIMIT = 65536                     -- bytes of one push; what does not fit is told without its value
local MAX_WAITERS = 64                       -- clients that wait for one task
local ABSURD = 2 ^ 53                        -- more than any time, offset or epoch
local MAX_CLEAR = 2 ^ 32                     -- a message can't carry such a clear number

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

local function rest_due(raw)
  local _, _, _, _, _, _, _, _, _, due = unpack_s(REST, raw, CTL_LEN + 1)
  return due
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
          add = {by_name = {}, keys = {}, groups = {}, types = {}},
          rem = {by_name = {}, keys = {}, groups = {}, types = {}}}
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

-- the type and the group in a record's k; the group is nothing for most
local function split(k)
  local at = string.find(k, '%z')
  if not at then return k end
  return sub(k, 1, at - 1), sub(k, at + 1)
end

local function list_of(lists, key)                      -- of a group's index: tasks of several types share it
  local list = lists.groups[key]
  if not list then
    list = {}
    lists.groups[key], lists.keys[#lists.keys + 1] = list, {key, list}
  end
  return list
end

-- the list of ids that enter (or leave) the index of one clear number, state and type; its field `group` is the list of
-- the group's index, if the tasks have a group
local function index_list(lists, g, shown, k)
  if lists.g == g and lists.shown == shown and lists.k == k then return lists.last end
  local name = g .. ':' .. NAME[shown] .. ':' .. k
  local list = lists.by_name[name]
  if not list then
    local kind, group = split(k)
    list = {}
    if group then list.group = list_of(lists, 'ig:' .. g .. ':' .. NAME[shown] .. ':' .. group) end
    lists.by_name[name] = list
    lists.keys[#lists.keys + 1] = {'i:' .. g .. ':' .. NAME[shown] .. ':' .. kind, list}
    lists.types[g .. ':' .. kind] = true
  end
  lists.g, lists.shown, lists.k, lists.last = g, shown, k, list
  return list
end

local function enter(b, g, shown, k, id, score)
  if not (score >= 0 and score < ABSURD) then score = 0 end      -- of a damaged record: ZADD takes no NaN
  local list = index_list(b.add, g, shown, k)
  local n = #list
  list[n + 1], list[n + 2] = score, id
  if list.group then
    list = list.group
    n = #list
    list[n + 1], list[n + 2] = score, id
  end
end

local function leave(b, g, shown, k, id)
  local list = index_list(b.rem, g, shown, k)
  list[#list + 1] = id
  if list.group then list.group[#list.group + 1] = id end
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
  for _, one in ipairs(b.rem.keys) do index('ZREM', b.ns .. one[1], one[2]) end
  for _, one in ipairs(b.add.keys) do index('ZADD', b.ns .. one[1], one[2]) end
  for name in pairs(b.add.types) do index('SADD', b.ns .. 'k', {name}) end
  for client, list in pairs(b.push) do
    call('PUBLISH', 'yadtq:r:' .. client, pack('>BH', 0xdc, #list) .. concat(list))
  end
end

-- a number in the meta hash; what can't be one of ours counts as missing
local function whole(text, below)
  local n = tonumber(text or 0) or 0
  return n >= 0 and n < below and n or 0
end

local function clear_number(meta)
  return whole(call('HGET', meta, 'g'), MAX_CLEAR)
end

-- the fence of the partition, raised to e; stale is true when a later epoch owns it. -> stale, clear number
local function guard(meta, p, e)
  local field = 'f:' .. p
  local got = call('HMGET', meta, 'g', field)
  local fence = whole(got[2], ABSURD)
  if fence > e then return true, 0, fence end
  if fence < e then call('HSET', meta, field, string.format('%.0f', e)) end
  return false, whole(got[1], MAX_CLEAR), e
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

