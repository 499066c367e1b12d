-- value, 'any' | 'absent' | a version, fence, ttl in ms or ''
local v = redis.call('HMGET', KEYS[2], 'b', 'v', 'f')
if not v[1] and redis.call('EXISTS', KEYS[2]) == 1 then return {life, changes, 'WRONGTYPE', 'not a value'} end
if v[1] and tonumber(v[3]) > tonumber(ARGV[8]) then return {life, changes, 'FENCED', v[3]} end
local expect = ARGV[7]
if expect ~= 'any' and expect ~= (v[2] or 'absent') then return {life, changes, 'OK', 'conflict', v[2] or ''} end
local version = num(tonumber(v[2] or 0) + 1)
redis.call('HSET', KEYS[2], 'b', ARGV[6], 'v', version, 'f', ARGV[8])
redis.call('PERSIST', KEYS[2])
if ARGV[9] ~= '' then redis.call('PEXPIRE', KEYS[2], ARGV[9]) else touch(KEYS[2]) end
return {life, changes, 'OK', 'done', version}
