local c = redis.call('HGET', KEYS[2], 't')
if not c then
  if redis.call('EXISTS', KEYS[2]) == 1 then return {life, changes, 'WRONGTYPE', 'not a claim'} end
  return {life, changes, 'OK', 0}
end
if c ~= ARGV[6] then return {life, changes, 'OK', 0} end
return {life, changes, 'OK', redis.call('DEL', KEYS[2])}
