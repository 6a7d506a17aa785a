from . import content_hash as content_hash, parquet_file as parquet_file, table as table
