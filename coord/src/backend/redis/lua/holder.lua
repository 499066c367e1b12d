-- Whatever else is there is no claim.
if redis.call('TYPE', KEYS[2]).ok ~= 'hash' then return {life, changes, 'OK'} end
local c = redis.call('HMGET', KEYS[2], 't', 'f')
if not c[1] then return {life, changes, 'OK'} end
return {life, changes, 'OK', c[1], c[2], redis.call('PTTL', KEYS[2])}
