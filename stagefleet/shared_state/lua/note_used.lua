-- Record that a host uses an image now. ARGV: host, image, most images, lifetime ms.
local used = P .. 'last-used:' .. subject
redis.call('ZADD', used, integer(now), ARGV[4])
redis.call('ZREMRANGEBYRANK', used, 0, -1 - ARGV[5])
redis.call('PEXPIRE', used, ARGV[6])
