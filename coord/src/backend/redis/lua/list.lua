return {life, changes, 'OK', redis.call('LRANGE', KEYS[2], 0, -1)}
