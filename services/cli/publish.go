package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/google/uuid"
	"golang.org/x/term"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/notification"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	"github.com/znshub/znshub/services/cli/render"
)

// publishBatch bounds what is read ahead of the brokers' acknowledgement.
const publishBatch = 500

type publishCmd struct {
	Topic  string `default:"${requested}" help:"Input topic."`
	NewIDs bool   `name:"new-ids" help:"Give a new notification_id to requests that have neither id nor key. Running it twice then sends twice."`
	AsIs   bool   `name:"as-is" help:"Publish also what breaks the rules; the sender will refuse it."`
	DryRun bool   `name:"dry-run" help:"Check and publish nothing."`
}

// Help implements kong.HelpProvider.
func (publishCmd) Help() string {
	return `Reads JSON from standard input: one request, one a line, or a list. Each is checked before it is published; one that breaks the rules is told with its field and left out, and the exit code is then 1. Prints the notification_id of each published request.

Examples:

    echo '{"source":"shop","idempotency_key":"order-1/shipped","recipient":{"phone":"0987654321"},"template_id":"300200","template_data":{"order_code":"DH-1","customer_name":"An"}}' | zns publish
    zns publish < requests.jsonl
    jq -c '.[]' requests.json | zns publish --json
    zns publish --dry-run < requests.jsonl

A trace in the variables TRACEPARENT and TRACESTATE goes on in the requests.`
}

// outgoing is one request on its way.
type outgoing struct {
	n      int
	name   string
	id     string
	record kafka.Record
}

// Run publishes standard input.
func (c *publishCmd) Run(ctx context.Context, a *App) error {
	if c.DryRun {
		return c.publish(ctx, a, func(context.Context, ...kafka.Record) error { return nil })
	}
	if f, ok := a.In.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		fmt.Fprintln(a.Err, "reading requests from this terminal; Ctrl-D ends")
	}
	cl, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer cl.Close()
	if err := cl.require(ctx, c.Topic); err != nil {
		return err
	}
	writer, err := kafka.NewWriter(cl.opts...)
	if err != nil {
		return err
	}
	defer writer.Close()
	return c.publish(ctx, a, func(ctx context.Context, records ...kafka.Record) error {
		return write(ctx, writer, c.Topic, records...)
	})
}

func (c *publishCmd) publish(ctx context.Context, a *App, write func(context.Context, ...kafka.Record) error) error {
	// The reader runs ahead by one batch, so that lines which come in slowly are published as they come.
	requests := make(chan outgoing, publishBatch)
	var refused int
	var inputErr error
	readerDone := make(chan struct{})
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer close(readerDone)
		defer close(requests)
		// A read of standard input cannot be ended from here: after a failed write this waits for the process's end.
		refused, inputErr = c.read(ctx, a, requests)
	}()

	published := 0
	for first := range requests {
		batch := []outgoing{first}
		for more := true; more && len(batch) < publishBatch; {
			select {
			case next, ok := <-requests:
				if more = ok; ok {
					batch = append(batch, next)
				}
			default:
				more = false
			}
		}
		records := make([]kafka.Record, len(batch))
		for i := range batch {
			records[i] = batch[i].record
		}
		if err := write(ctx, records...); err != nil {
			return fmt.Errorf("records %d to %d, after %s: %w", batch[0].n, batch[len(batch)-1].n, render.Plural(published, "published one"), err)
		}
		for _, o := range batch {
			if err := c.tell(a, o); err != nil {
				return err
			}
		}
		published += len(batch)
	}
	<-readerDone
	return c.sum(a, published, refused, inputErr)
}

// read sends every good request of the input to requests and returns how many it refused.
func (c *publishCmd) read(ctx context.Context, a *App, requests chan<- outgoing) (refused int, err error) {
	n := 0
	for doc, err := range documents(a.In) {
		if err != nil {
			return refused, err
		}
		n++
		o, violations := c.outgoing(n, doc)
		o.record.Headers = a.traceHeaders()
		if len(violations) > 0 && !c.AsIs {
			refused++
			a.refuse(n, o, violations)
			continue
		}
		select {
		case requests <- o:
		case <-ctx.Done():
			return refused, context.Cause(ctx)
		}
	}
	return refused, nil
}

// outgoing makes the record of one request: the bytes as they came, unless the request gets a new id.
func (c *publishCmd) outgoing(n int, doc json.RawMessage) (outgoing, []notification.Violation) {
	o := outgoing{n: n, name: fmt.Sprintf("record %d", n), record: kafka.Record{Topic: c.Topic, Partition: -1, Value: doc}}
	req, err := notification.Decode(o.record)
	if err != nil {
		broken, ok := errors.AsType[*notification.Error](err)
		if !ok || len(broken.Violations) == 0 {
			return o, []notification.Violation{{Rule: "decode", Message: err.Error()}}
		}
		return o, broken.Violations
	}
	if c.NewIDs && req.GetNotificationId() == "" && req.GetIdempotencyKey() == "" {
		req.NotificationId = newID()
		if o.record.Value, err = requestJSON(req); err != nil {
			return o, []notification.Violation{{Rule: "encode", Message: err.Error()}}
		}
	}
	o.identify(req)
	return o, notification.Validate(req, time.Now())
}

// identify fills in the id, the name for people and the record's key.
func (o *outgoing) identify(req *notificationv1.NotificationRequested) {
	if id, ok := notification.ID(req); ok {
		o.id, o.name = id.String(), id.String()
	}
	if req.GetIdempotencyKey() != "" {
		o.name = render.OneLine(req.GetIdempotencyKey(), 80)
	}
	if key := notification.PartitionKey(req); key != "" {
		o.record.Key = []byte(key)
	}
}

// newID is a UUID whose first bits are the time, so that ids of one day stand together in logs.
func newID() string { return uuid.Must(uuid.NewV7()).String() }

func (a *App) refuse(n int, o outgoing, violations []notification.Violation) {
	for _, v := range violations {
		if a.Globals.JSON {
			_ = a.jsonTo(a.Err, map[string]any{"record": n, "notification_id": o.id, "field": v.Field, "rule": v.Rule, "message": v.Message})
			continue
		}
		style := render.StyleFor(a.Err, a.getenv)
		fmt.Fprintf(a.Err, "%s record %d: %s\n", style.Bad("refused"), n, render.OneLine(v.String(), 300))
	}
}

func (c *publishCmd) tell(a *App, o outgoing) error {
	if a.Globals.JSON {
		return a.printJSON(map[string]any{"record": o.n, "notification_id": o.id, "name": o.name, "topic": c.Topic, "published": !c.DryRun})
	}
	_, err := io.WriteString(a.Out, o.id+"\n")
	return err
}

func (c *publishCmd) sum(a *App, published, refused int, inputErr error) error {
	did := "published to " + c.Topic
	if c.DryRun {
		did = "would be published to " + c.Topic
	}
	if !a.Globals.JSON {
		fmt.Fprintf(a.Err, "%s %s", render.Plural(published, "request"), did)
		if refused > 0 {
			fmt.Fprintf(a.Err, ", %d refused", refused)
		}
		fmt.Fprintln(a.Err)
	}
	switch {
	case inputErr != nil:
		return failed(fmt.Errorf("read the input: %w", inputErr), "what stands before it was handled; mend the input and publish the rest")
	case refused > 0:
		return errQuiet
	case published == 0:
		return usage(errors.New("standard input holds no request"), "zns publish --help")
	}
	return nil
}
