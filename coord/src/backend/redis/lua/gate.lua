local n = redis.call('HGET', KEYS[2], 'n')
if not n then return {life, changes, 'NOTFOUND'} end
if n == '0' then return {life, changes, 'OK', {}} end
local counts, out = {}, {}
for _, field in ipairs(redis.call('HKEYS', KEYS[2])) do
  local set = string.match(field, '^p(%S+) ')
  if set then counts[set] = (counts[set] or 0) + 1 end
end
for set, count in pairs(counts) do
  out[#out + 1] = set
  out[#out + 1] = tostring(count)
end
return {life, changes, 'OK', out}
