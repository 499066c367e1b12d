local v = redis.call('HMGET', KEYS[2], 'b', 'v', 'f')
if not v[1] then
  if redis.call('EXISTS', KEYS[2]) == 1 then return {life, changes, 'WRONGTYPE', 'not a value'} end
  return {life, changes, 'OK'}
end
return {life, changes, 'OK', v[1], v[2], v[3]}
