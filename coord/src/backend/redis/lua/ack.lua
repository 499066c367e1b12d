-- name, epoch, fence, time to remember in ms, then of each effect: kind, value; their keys from KEYS[4] on
local J = KEYS[3]
local status, what = not_held(J)
if status then return {life, changes, status, what} end
if what == 'acknowledged' then return {life, changes, 'OK', 0} end
local key = 4
for i = 10, #ARGV, 2 do
  local kind = ARGV[i]
  local found = other_type(KEYS[key], kind)
  if found then return {life, changes, 'WRONGTYPE', found} end
  if kind == 'counter' then
    -- Tried, and taken back: Lua's numbers cannot say whether 64 bits overflow.
    local tried = redis.pcall('INCRBY', KEYS[key], ARGV[i + 1])
    if type(tried) == 'table' and tried.err then return {life, changes, 'INVALID', 'the counter would overflow'} end
    redis.call('DECRBY', KEYS[key], ARGV[i + 1])
  end
  key = key + 1
end
key = 4
for i = 10, #ARGV, 2 do
  local kind, value, K = ARGV[i], ARGV[i + 1], KEYS[key]
  if kind == 'counter' then redis.call('INCRBY', K, value)
  elseif kind == 'set' then redis.call('SADD', K, value)
  elseif kind == 'list' then redis.call('RPUSH', K, value)
  else
    redis.call('HINCRBY', K, 'v', 1)
    redis.call('HSET', K, 'b', value, 'f', ARGV[8])
  end
  touch(K)
  key = key + 1
end
-- Its parts go, all at once; what it was stays for a while.
local fields = {'epoch', 'owner', 'handler', 'payload', 'watchdog', 'lease', 'sealed', 'left', 'opened', 'moved', 'touched', 'free',
  'attempts', 'holder', 'fence'}
local values, kept = redis.call('HMGET', J, unpack(fields)), {}
for i, field in ipairs(fields) do
  kept[#kept + 1] = field
  kept[#kept + 1] = values[i]
end
redis.call('DEL', J)
redis.call('HSET', J, 'stage', 'acknowledged', 'parts', 0, unpack(kept))
redis.call('ZREM', LIVE, ARGV[6])
redis.call('PEXPIRE', J, ARGV[9])
return {life, changes, 'OK', 1}
