return {life, changes, 'OK', redis.call('SMEMBERS', KEYS[2])}
