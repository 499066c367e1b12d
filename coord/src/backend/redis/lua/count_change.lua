-- In a script that changes something: counts it in the life that was seen. A life that is not there would begin with this one.
if life ~= '' then
  changes = redis.call('HINCRBY', H, life, 1) - 1
  if (changes == 0 or changes < tonumber(ARGV[2])) and redis.call('HGET', H, 'life') ~= life then
    redis.call('HDEL', H, life)
    changes = nil
  end
end
