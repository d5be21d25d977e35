// Package kafka is what the hub's programs need of Kafka beside the engine of pkg/stream: how to connect, how a record
// becomes a CloudEvent, plain writing and reading, and the topics' administration.
//
//   - Config turns the KAFKA_* variables into options for any franz-go client.
//   - NewRecord and DecodeHeaders are the CloudEvents 1.0 binary mode of the contract.
//   - Writer appends records outside transactions and never waits longer than the caller's context allows.
//   - Reader reads partitions as a read-committed consumer without a group and knows when it has seen everything that
//     was there at a given moment.
//   - Admin creates topics after the table in proto/topic and says which do not match it, and how to mend them.
//
// franz-go's types appear in Config.Options, the constructors and Features only. Nothing here logs; errors carry no keys,
// values or header values of records.
package kafka
