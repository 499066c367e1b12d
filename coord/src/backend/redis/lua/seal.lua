-- name, epoch
local J = KEYS[3]
local word, current = not_this(J, ARGV[7])
if word then return {life, changes, 'OK', word, current} end
if redis.call('HGET', J, 'stage') == 'open' then
  redis.call('HSET', J, 'sealed', '1')
  settle_down(J, ARGV[6])
end
local how, left = left_of(J)
return {life, changes, 'OK', how, left}
