if redis.call('EXISTS', KEYS[2]) == 0 then return {life, changes, 'NOTFOUND'} end
local rows, out = redis.call('HGETALL', KEYS[2]), {}
for i = 1, #rows, 2 do
  if string.sub(rows[i], 1, 1) == 's' then
    out[#out + 1] = string.sub(rows[i], 2)
    out[#out + 1] = rows[i + 1]
  end
end
return {life, changes, 'OK', out}
