-- In a script that changes nothing: how many changes the life that was seen has had.
if life ~= '' then changes = tonumber(redis.call('HGET', H, life) or nil) end
