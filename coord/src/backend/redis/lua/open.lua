-- name, epoch, owner, handler, payload, watchdog in ms, lease in ms, sealed, then parts
local J, name, epoch = KEYS[3], ARGV[6], ARGV[7]
local there = redis.call('HMGET', J, 'epoch', 'stage', 'sealed')
local word = 'new'
if there[1] then
  if tonumber(there[1]) > tonumber(epoch) then return {life, changes, 'OK', 'stale', there[1]} end
  if tonumber(there[1]) == tonumber(epoch) then
    if there[2] ~= 'open' then return {life, changes, 'OK', 'over', '0'} end
    word = 'joined'
  end
end
if word == 'new' then
  redis.call('DEL', J)
  redis.call('HSET', J, 'epoch', epoch, 'owner', ARGV[8], 'handler', ARGV[9], 'payload', ARGV[10], 'watchdog', ARGV[11],
    'lease', ARGV[12], 'sealed', ARGV[13], 'left', 0, 'parts', 0, 'opened', ms, 'moved', ms, 'touched', ms,
    'stage', 'open', 'free', ms, 'attempts', 0)
  add_parts(J, 14)
elseif there[3] ~= '1' then
  add_parts(J, 14)
  redis.call('HSET', J, 'sealed', ARGV[13])
end
touch(J)
settle_down(J, name)
local how, left = left_of(J)
return {life, changes, 'OK', word, how, left}
