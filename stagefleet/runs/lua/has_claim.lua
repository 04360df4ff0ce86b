-- Return 1 if a claim is the valid one, else 0; an error if this server takes no writes. ARGV: run, index, claim.
write_at_maxmemory()
return redis.call('HGET', key(ARGV[3], 'claims'), ARGV[4]) == ARGV[5] and 1 or 0
