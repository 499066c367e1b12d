local size = redis.call('RPUSH', KEYS[2], ARGV[6])
touch(KEYS[2])
return {life, changes, 'OK', size}
