package trackingid

import (
	"encoding/csv"
	"errors"
	"flag"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace"
)

var update = flag.Bool("update", false, "rewrite the golden vectors")

const vectors = "testdata/vectors.tsv"

var (
	exampleID    = uuid.MustParse("018f3c5e-7b1a-7c3e-9c39-5c1f1b9f2a10")
	exampleTrace = trace.TraceID{0x4b, 0xf9, 0x2f, 0x35, 0x77, 0xb3, 0x4d, 0xa6, 0xa3, 0xce, 0x92, 0x9d, 0x0e, 0x0e, 0x47, 0x36}
)

func TestRoundTrip(t *testing.T) {
	for _, attempt := range []int32{1, 2, 62, 63} {
		for _, sampled := range []bool{true, false} {
			s := Encode("prod", exampleID, exampleTrace, sampled, attempt)
			got, err := Decode("prod", s)
			if err != nil {
				t.Fatalf("Decode(%q): %v", s, err)
			}
			if want := (ID{exampleID, exampleTrace, sampled, attempt}); got != want {
				t.Errorf("Decode(%q) = %+v, want %+v", s, got, want)
			}
		}
	}
}

func TestAttemptOverflow(t *testing.T) {
	at63 := Encode("prod", exampleID, exampleTrace, true, 63)
	if late := Encode("prod", exampleID, exampleTrace, true, 1<<30); late != at63 {
		t.Errorf("a late attempt got %q, want that of attempt 63, %q", late, at63)
	}
	for attempt, want := range map[int32]bool{1: false, 62: false, 63: true, 64: true} {
		id, err := Decode("prod", Encode("prod", exampleID, exampleTrace, true, attempt))
		if err != nil {
			t.Fatal(err)
		}
		if id.Saturated() != want {
			t.Errorf("attempt %d: Saturated() = %t, want %t", attempt, id.Saturated(), want)
		}
	}
}

func TestDecodeForeign(t *testing.T) {
	valid := Encode("prod", exampleID, exampleTrace, true, 1)
	flip := func(s string, i int) string {
		c := byte('0')
		if s[i] == c {
			c = '1'
		}
		return s[:i] + string(c) + s[i+1:]
	}
	cases := map[string]struct {
		s    string
		want error
	}{
		"empty":                 {"", errShape},
		"another program's":     {"order-1042", errShape},
		"short":                 {valid[1:], errShape},
		"long":                  {valid + "0", errShape},
		"dash":                  {valid[:20] + "-" + valid[21:], errShape},
		"not ASCII":             {valid[:46] + "é", errShape},
		"above 2^285":           {strings.Repeat("z", Len), errRange},
		"version 0":             {strings.Repeat("0", Len), errVersion},
		"version 7":             {encode(number{7 << 26, 1, 2, 3, 4}), errVersion},
		"last character wrong":  {flip(valid, Len-1), errChecksum},
		"middle one wrong":      {flip(valid, Len/2), errChecksum},
		"of the staging system": {Encode("staging", exampleID, exampleTrace, true, 1), errChecksum},
	}
	for name, tc := range cases {
		_, err := Decode("prod", tc.s)
		if !errors.Is(err, tc.want) || !errors.Is(err, ErrForeign) {
			t.Errorf("%s: got %v, want %v", name, err, tc.want)
		}
	}
}

// TestBase62 compares the conversion with that of math/big.
func TestBase62(t *testing.T) {
	for _, n := range []number{
		{}, {0, 0, 0, 0, 1}, {0, 0, 0, 0, 61}, {0, 0, 0, 0, 62}, {0, 0, 0, 1, 0}, {0, 0, 0, 0, chunkValue},
		{1<<29 - 1, 1<<64 - 1, 1<<64 - 1, 1<<64 - 1, 1<<64 - 1}, {1 << 26, 0x0123456789abcdef, 0, 42, 1 << 63},
	} {
		want := new(big.Int)
		for _, word := range n {
			want.Lsh(want, 64).Or(want, new(big.Int).SetUint64(word))
		}
		got := encode(n)
		// math/big orders its digits 0-9, a-z, A-Z.
		swapped := strings.Map(func(r rune) rune {
			switch {
			case 'a' <= r && r <= 'z':
				return r - 'a' + 'A'
			case 'A' <= r && r <= 'Z':
				return r - 'A' + 'a'
			}
			return r
		}, got)
		if value, ok := new(big.Int).SetString(swapped, 62); !ok || value.Cmp(want) != 0 {
			t.Errorf("encode(%x) = %q, which is %v, want %v", n, got, value, want)
		}
		if back, err := decode(got); err != nil || back != n {
			t.Errorf("decode(%q) = %x, %v, want %x", got, back, err, n)
		}
	}
}

func TestGolden(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	f, err := os.Open(vectors)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := csv.NewReader(f)
	r.Comma, r.Comment = '\t', '#'
	rows, err := r.ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) < 8 {
		t.Fatalf("%s has %d vectors, want at least 8", vectors, len(rows))
	}
	for _, row := range rows {
		cluster, id := row[0], uuid.MustParse(row[1])
		var traceID trace.TraceID
		if _, err := fmt.Sscanf(row[2], "%x", (*hex)(&traceID)); err != nil {
			t.Fatal(err)
		}
		attempt, err := strconv.ParseInt(row[4], 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		if got := Encode(cluster, id, traceID, row[3] == "1", int32(attempt)); got != row[5] {
			t.Errorf("%v: Encode = %q", row, got)
		}
		if _, err := Decode(cluster, row[5]); err != nil {
			t.Errorf("%v: Decode: %v", row, err)
		}
	}
}

// hex scans a trace id.
type hex trace.TraceID

func (h *hex) Scan(s fmt.ScanState, _ rune) error {
	tok, err := s.Token(true, nil)
	if err != nil {
		return err
	}
	if string(tok) == strings.Repeat("0", 32) {
		return nil
	}
	id, err := trace.TraceIDFromHex(string(tok))
	*h = hex(id)
	return err
}

func writeVectors(t *testing.T) {
	var b strings.Builder
	b.WriteString("# cluster\tnotification_id\ttrace_id\tsampled\tattempt\ttracking_id\n")
	add := func(cluster string, id uuid.UUID, traceID trace.TraceID, sampled, attempt int32) {
		fmt.Fprintf(&b, "%s\t%s\t%s\t%d\t%d\t%s\n", cluster, id, traceID, sampled, attempt,
			Encode(cluster, id, traceID, sampled == 1, attempt))
	}
	var ones uuid.UUID
	for i := range ones {
		ones[i] = 0xff
	}
	add("", uuid.UUID{}, trace.TraceID{}, 0, 1)
	add("prod", uuid.UUID{}, trace.TraceID{}, 0, 1)
	add("prod", ones, trace.TraceID(ones), 1, 63)
	add("prod", exampleID, exampleTrace, 1, 1)
	add("prod", exampleID, exampleTrace, 0, 1)
	add("prod", exampleID, exampleTrace, 1, 2)
	add("prod", exampleID, exampleTrace, 1, 63)
	add("prod", exampleID, exampleTrace, 1, 1000)
	add("staging", exampleID, exampleTrace, 1, 1)
	add("cửa-hàng", exampleID, trace.TraceID{}, 0, 62)
	if err := os.WriteFile(vectors, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestOtherLanguages has independent programs check the golden vectors.
func TestOtherLanguages(t *testing.T) {
	for _, cmd := range [][]string{{"python3", "testdata/check.py"}, {"java", "testdata/Check.java"}} {
		t.Run(cmd[0], func(t *testing.T) {
			if _, err := exec.LookPath(cmd[0]); err != nil {
				t.Skipf("%s is not installed", cmd[0])
			}
			out, err := exec.CommandContext(t.Context(), cmd[0], cmd[1], vectors).CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			t.Logf("%s", out)
		})
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("prod", Encode("prod", exampleID, exampleTrace, true, 1))
	f.Add("", Encode("", uuid.UUID{}, trace.TraceID{}, false, 63))
	f.Add("prod", strings.Repeat("z", Len))
	f.Fuzz(func(t *testing.T, cluster, s string) {
		id, err := Decode(cluster, s)
		if err != nil {
			if !errors.Is(err, ErrForeign) {
				t.Errorf("Decode(%q) = %v, without ErrForeign", s, err)
			}
			return
		}
		if again := Encode(cluster, id.Notification, id.Trace, id.Sampled, id.Attempt); again != s {
			t.Errorf("Encode(Decode(%q)) = %q", s, again)
		}
	})
}

func FuzzEncode(f *testing.F) {
	f.Add("prod", exampleID[:], exampleTrace[:], true, int32(7))
	f.Fuzz(func(t *testing.T, cluster string, id, traceID []byte, sampled bool, attempt int32) {
		want := ID{Sampled: sampled, Attempt: min(max(attempt, 0), MaxAttempt)}
		copy(want.Notification[:], id)
		copy(want.Trace[:], traceID)
		s := Encode(cluster, want.Notification, want.Trace, sampled, attempt)
		if len(s) != Len {
			t.Fatalf("%q has %d characters", s, len(s))
		}
		if got, err := Decode(cluster, s); err != nil || got != want {
			t.Errorf("Decode(%q) = %+v, %v, want %+v", s, got, err, want)
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		Encode("prod", exampleID, exampleTrace, true, 1)
	}
}

func BenchmarkDecode(b *testing.B) {
	s := Encode("prod", exampleID, exampleTrace, true, 1)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode("prod", s); err != nil {
			b.Fatal(err)
		}
	}
}
