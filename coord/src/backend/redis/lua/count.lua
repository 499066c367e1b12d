return {life, changes, 'OK', redis.call('GET', KEYS[2]) or '0'}
