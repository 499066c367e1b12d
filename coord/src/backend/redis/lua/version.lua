local n = redis.call('HGET', KEYS[2], 'n')
if not n and redis.call('EXISTS', KEYS[2]) == 1 then return {life, changes, 'WRONGTYPE', 'not a version'} end
return {life, changes, 'OK', n or '0'}
