"""A Recording as chunks of bytes and back: Perfetto protobuf and Chrome JSON."""
