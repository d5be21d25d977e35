package chaos

import (
	"bytes"
	"io"
	"os"
	"strings"
)

// brokerFault is what a line of the broker's log tells of a fault of Kafka itself.
type brokerFault struct {
	coordinator string // a partition of __consumer_offsets whose groups are, or may be, not served any more
	transaction string // a transactional id: the brokers have dropped markers of its transaction
}

// recognise finds a fault of Kafka itself, as Kafka 4.3 words it; the zero value says that there is none.
func recognise(line string) brokerFault {
	if _, rest, ok := strings.Cut(line, "Couldn't find leader endpoint for partitions "); ok {
		if _, rest, ok = strings.Cut(rest, " while trying to send transaction markers for "); ok {
			id, _, _ := strings.Cut(rest, ", these partitions are likely deleted")
			return brokerFault{transaction: id}
		}
	}
	for _, says := range []string{"The state machine of the coordinator ", "Failed to load metadata from "} {
		_, rest, ok := strings.Cut(line, says)
		partition, why, _ := strings.Cut(rest, " ")
		if !ok || !strings.HasPrefix(partition, "__consumer_offsets-") {
			continue
		}
		if strings.HasPrefix(why, "is out of sync with the underlying log") || strings.HasPrefix(why, "with epoch") {
			return brokerFault{coordinator: partition}
		}
	}
	return brokerFault{}
}

// logFollower reads a log that grows.
type logFollower struct {
	name string
	read int64
	rest []byte // a line that is not whole yet
}

// lines returns the lines that were completed since the last call. A log that cannot be read now is read later.
func (l *logFollower) lines() []string {
	f, err := os.Open(l.name)
	if err != nil {
		return nil
	}
	defer f.Close()
	text, _ := io.ReadAll(io.NewSectionReader(f, l.read, 1<<40))
	l.read += int64(len(text))
	text = append(l.rest, text...)
	end := bytes.LastIndexByte(text, '\n') + 1
	l.rest = bytes.Clone(text[end:])
	if end == 0 {
		return nil
	}
	return strings.Split(string(text[:end-1]), "\n")
}
