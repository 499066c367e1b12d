return {life, changes, 'OK', redis.call('DEL', KEYS[2])}
