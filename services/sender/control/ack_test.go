package control

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
)

func TestAck(t *testing.T) {
	a := Ack{Position: Position{TopicID: [16]byte{1, 2}, Next: []int64{0, 7, 3}}}
	var ids []uuid.UUID
	for i := range maxResults + 3 {
		ids = append(ids, uuid.New())
		a = a.With(Result{Command: ids[i], At: noon, Changed: i, TooLate: 1, Left: 2})
	}
	got, err := DecodeAck(a.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(a, got); diff != "" {
		t.Errorf("read back (-written +read):\n%s", diff)
	}
	if len(got.Results) != maxResults {
		t.Errorf("%d results are kept, want %d", len(got.Results), maxResults)
	}
	if _, ok := got.Result(ids[2]); ok {
		t.Error("the oldest is still told")
	}
	if r, ok := got.Result(ids[maxResults+2]); !ok || r.Changed != maxResults+2 {
		t.Errorf("the latest: %+v, %v", r, ok)
	}
	if empty, err := DecodeAck(nil); err != nil || empty.Position.Next != nil {
		t.Errorf("of nothing: %+v, %v", empty, err)
	}
}

func TestAckOfANewerProgram(t *testing.T) {
	b, err := proto.Marshal(&ledgerv1.ControlAck{MinReader: AckVersion + 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := DecodeAck(b); err == nil {
		t.Error("taken: a newer program's positions may mean something else")
	}
	for _, b := range [][]byte{{0xff}, {0x22, 2, 0x0a, 0}} {
		if _, err := DecodeAck(b); err == nil {
			t.Errorf("% x is taken", b)
		}
	}
}
