-- name, epoch, part
local J, part = KEYS[3], '/' .. ARGV[8]
local m = redis.call('HMGET', J, 'epoch', 'stage', 'left', 'sealed', 'touched', part)
if m[1] ~= ARGV[7] then
  if tonumber(m[1] or -1) > tonumber(ARGV[7]) then return {life, changes, 'OK', 'stale', m[1]} end
  return {life, changes, 'OK', 'unknown'}
end
-- Its parts are gone; whatever comes now comes again, or too late.
if m[2] == 'acknowledged' then return {life, changes, 'OK', m[3] == '0' and 'duplicate' or 'late'} end
if not m[6] then return {life, changes, 'OK', 'unknown'} end
if m[6] == '1' then return {life, changes, 'OK', 'duplicate'} end
if m[2] ~= 'open' then return {life, changes, 'OK', 'late'} end
local left = m[3] - 1
redis.call('HSET', J, part, '1', 'left', left, 'moved', ms)
if TTL > 0 and ms >= m[5] + TTL / 4 then
  redis.call('HSET', J, 'touched', ms)
  redis.call('PEXPIRE', J, TTL)
end
if left > 0 or m[4] ~= '1' then return {life, changes, 'OK', 'accepted', left} end
-- What follows is for the last part alone: functions that are not needed are not made.
