tell(ARGV[6])
return {life, changes, 'OK', 1}
