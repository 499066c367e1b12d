for i = 6, #ARGV do redis.call('SREM', KEYS[2], ARGV[i]) end
touch(KEYS[2])
return {life, changes, 'OK', redis.call('SCARD', KEYS[2])}
