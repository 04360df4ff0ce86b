-- Remember where the upload of a blob is. ARGV: namespace, field, address ('' forgets it), lifetime ms, most sessions.
redis.call('HDEL', namespace, ARGV[4])
if ARGV[5] == '' then return end
while redis.call('HLEN', namespace) >= tonumber(ARGV[7]) do
  redis.call('HDEL', namespace, redis.call('HRANDFIELD', namespace))
end
redis.call('HSET', namespace, ARGV[4], integer(now + tonumber(ARGV[6])) .. ':' .. ARGV[5])
touch()
