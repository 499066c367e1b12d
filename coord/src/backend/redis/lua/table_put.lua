-- table, field, value, stamp. A row is its stamp, a space, and its value.
local row = redis.call('HGET', KEYS[2], ARGV[7])
local there = row and tonumber(string.match(row, '^%d+')) or 0
local stamp = tonumber(ARGV[9])
if stamp == 0 then stamp = math.max(there + 1, us) end
if stamp > there then
  redis.call('HSET', KEYS[2], ARGV[7], num(stamp) .. ' ' .. ARGV[8])
  tell('table ' .. ARGV[6])
end
return {life, changes, 'OK', num(math.max(stamp, there))}
