from . import device as device, folder as folder, keys as keys, updates as updates
