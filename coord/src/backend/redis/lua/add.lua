local count = redis.pcall('INCRBY', KEYS[2], ARGV[6])
if type(count) == 'table' and count.err then
  if string.find(count.err, 'WRONGTYPE', 1, true) then return {life, changes, 'WRONGTYPE', 'not a counter'} end
  return {life, changes, 'INVALID', 'the counter would overflow'}
end
touch(KEYS[2])
return {life, changes, 'OK', redis.call('GET', KEYS[2])}
