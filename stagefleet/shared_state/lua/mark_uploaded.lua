-- Record that a destination has blobs. ARGV: namespace, fields...
local known = {}
for n = 4, #ARGV do
  known[#known + 1] = ARGV[n]
  known[#known + 1] = 'k'
end
in_steps(known, function(first, last) redis.call('HSET', namespace, unpack(known, first, last)) end)
touch()
