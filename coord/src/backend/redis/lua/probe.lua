return {life, changes, 'OK', 1}
