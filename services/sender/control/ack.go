package control

import (
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
)

// AckKey is the reserved key of the [ledgerv1.ControlAck] that stands once in each partition of the sender's ledger.
const AckKey = "\x00control"

// AckVersion is the format of an Ack that this program writes and reads.
const AckVersion = 1

// maxResults is how many commands an Ack tells of.
const maxResults = 64

// Ack is what of zns.control the owner of a ledger partition has obeyed.
type Ack struct {
	Position Position
	Results  []Result // of the latest commands that are done once, oldest first
}

// Result is what a command came to in one partition.
type Result struct {
	Command uuid.UUID
	At      time.Time
	Changed int // notifications that it changed
	TooLate int // those that it would have changed before their call
	Left    int // those of its scope that it is not for
}

// With returns the Ack with one more result.
func (a Ack) With(r Result) Ack {
	results := a.Results[max(0, len(a.Results)+1-maxResults):]
	a.Results = append(slices.Clone(results), r)
	return a
}

// Result returns what the command came to; false: the partition does not tell.
func (a Ack) Result(command uuid.UUID) (Result, bool) {
	for _, r := range slices.Backward(a.Results) {
		if r.Command == command {
			return r, true
		}
	}
	return Result{}, false
}

// Encode is the ledger record's value.
func (a Ack) Encode() []byte {
	p := &ledgerv1.ControlAck{MinReader: AckVersion, TopicId: a.Position.TopicID[:], NextOffsets: a.Position.Next}
	for _, r := range a.Results {
		p.Results = append(p.Results, &ledgerv1.CommandResult{
			CommandId: r.Command[:], DoneMs: r.At.UnixMilli(), Changed: int32(r.Changed), TooLate: int32(r.TooLate), Left: int32(r.Left),
		})
	}
	b, err := proto.Marshal(p)
	if err != nil {
		panic(fmt.Sprintf("control: an ack cannot be encoded: %v", err))
	}
	return b
}

// DecodeAck reads a ledger record under [AckKey]; nil is an Ack of nothing.
func DecodeAck(value []byte) (Ack, error) {
	p := &ledgerv1.ControlAck{}
	if err := proto.Unmarshal(value, p); err != nil {
		return Ack{}, fmt.Errorf("decode what was obeyed of zns.control: %w", err)
	}
	if p.GetMinReader() > AckVersion {
		return Ack{}, fmt.Errorf("what was obeyed of zns.control needs format %d, this program reads %d: run the newer release", p.GetMinReader(), AckVersion)
	}
	a := Ack{Position: Position{Next: p.GetNextOffsets()}}
	copy(a.Position.TopicID[:], p.GetTopicId())
	for _, r := range p.GetResults() {
		id, err := uuid.FromBytes(r.GetCommandId())
		if err != nil {
			return Ack{}, fmt.Errorf("decode what was obeyed of zns.control: a command_id is no UUID")
		}
		a.Results = append(a.Results, Result{
			Command: id, At: time.UnixMilli(r.GetDoneMs()).UTC(), Changed: int(r.GetChanged()), TooLate: int(r.GetTooLate()), Left: int(r.GetLeft()),
		})
	}
	return a, nil
}
