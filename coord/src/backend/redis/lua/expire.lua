return {life, changes, 'OK', redis.call('PEXPIRE', KEYS[2], ARGV[6])}
