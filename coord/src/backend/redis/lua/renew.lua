local c = redis.call('HMGET', KEYS[2], 't', 'f')
if not c[1] then
  if redis.call('EXISTS', KEYS[2]) == 1 then return {life, changes, 'WRONGTYPE', 'not a claim'} end
  return {life, changes, 'NOTFOUND'}
end
if c[1] ~= ARGV[6] then return {life, changes, 'FENCED', c[2]} end
redis.call('PEXPIRE', KEYS[2], ARGV[7])
return {life, changes, 'OK', c[2]}
