return {life, changes, 'OK', redis.call('HGETALL', KEYS[2])}
