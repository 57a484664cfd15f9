"""How much deflated bytes can unpack to, which bounds what a file can hold."""

#: No deflated byte unpacks to more than 1032 (https://zlib.net/zlib_tech.html).
MAX_DEFLATE = 1032
