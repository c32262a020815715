"""The only door to AWS. Nothing outside this package imports aiobotocore or knows an AWS error code.

`clients` opens the connections, `faults` is the one table of error codes, `table` speaks DynamoDB, `group_commit`
gathers the writes of all actors into few requests, `queue` speaks SQS, `bucket` S3, `provision` creates what is
missing. `signed` makes the calls of a busy node beside the SDK, `exchange` carries them.
"""
