settle_down(J, ARGV[6])
return {life, changes, 'OK', 'last'}
