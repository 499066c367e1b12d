-- name, epoch, then parts
local J = KEYS[3]
local word, current = not_this(J, ARGV[7])
if word then return {life, changes, 'OK', word, current} end
local m = redis.call('HMGET', J, 'stage', 'sealed')
if m[1] == 'open' and m[2] ~= '1' then add_parts(J, 8) end
local how, left = left_of(J)
return {life, changes, 'OK', how, left}
