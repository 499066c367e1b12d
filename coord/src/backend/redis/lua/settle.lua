-- name, epoch, part
local J, P = KEYS[3], KEYS[4]
local m = redis.call('HMGET', J, 'epoch', 'stage', 'left', 'sealed', 'touched')
local epoch, given = tonumber(m[1] or -1), tonumber(ARGV[7])
if epoch < given then return {life, changes, 'OK', 'unknown'} end
if epoch > given then return {life, changes, 'OK', 'stale', m[1]} end
-- Its parts are gone; whatever comes now comes again, or too late.
if m[2] == 'acknowledged' then return {life, changes, 'OK', m[3] == '0' and 'duplicate' or 'late'} end
local settled = redis.call('HGET', P, ARGV[8])
if not settled then return {life, changes, 'OK', 'unknown'} end
if settled == '1' then return {life, changes, 'OK', 'duplicate'} end
if m[2] ~= 'open' then return {life, changes, 'OK', 'late'} end
local left = tonumber(m[3]) - 1
redis.call('HSET', P, ARGV[8], '1')
redis.call('HSET', J, 'left', left, 'moved', ms)
if TTL > 0 and ms >= tonumber(m[5]) + TTL / 4 then
  redis.call('HSET', J, 'touched', ms)
  touch(J)
  touch(P)
end
if left == 0 and m[4] == '1' and settle_down(J, ARGV[6]) then return {life, changes, 'OK', 'last'} end
return {life, changes, 'OK', 'accepted', left}
