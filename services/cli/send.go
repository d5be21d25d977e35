package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/znshub/znshub/pkg/kafka"
	"github.com/znshub/znshub/pkg/notification"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
	"github.com/znshub/znshub/proto/topic"
	"github.com/znshub/znshub/services/cli/event"
	"github.com/znshub/znshub/services/cli/render"
)

type sendCmd struct {
	Phone    string            `required:"" help:"Who: a phone number in any usual form."`
	Template string            `required:"" help:"Zalo's template id."`
	Data     map[string]string `arg:"" optional:"" mapsep:"none" placeholder:"KEY=VALUE" help:"The template's parameters: key=value …"`

	Key         string        `help:"Natural key, for example order-1042/shipped: the same key is never sent twice. Default: a new id."`
	ID          string        `name:"id" help:"notification_id, a UUID, instead of a key."`
	Source      string        `default:"zns-cli" help:"The service that asks."`
	OA          string        `name:"oa" help:"Official Account; needed when the hub knows several."`
	Category    string        `enum:"otp,transaction,customer_care,promotion," default:"" help:"otp, transaction, customer_care or promotion."`
	OrderingKey string        `help:"Send in order with others of this key."`
	OnUnknown   string        `enum:"fail,hold,resend," default:"" help:"When Zalo's answer is lost: fail, hold or resend."`
	NotBefore   time.Time     `placeholder:"TIME" help:"Not before this time, 2026-12-01T06:00:00+07:00."`
	TTL         time.Duration `name:"ttl" help:"How long a call may still start."`
	Reference   string        `help:"Order or invoice number, echoed in every result."`
	Campaign    string        `help:"The campaign_id: what zns hold, cancel and find know it by."`

	Topic   string        `default:"${requested}" help:"Input topic."`
	Wait    bool          `help:"Wait until the phone has it or it failed; exit code 1 when it failed or the time is over."`
	Timeout time.Duration `default:"60s" help:"How long --wait waits."`
}

// Help implements kong.HelpProvider.
func (sendCmd) Help() string {
	return `Examples:

    zns send --phone 0987654321 --template 300200 order_code=DH-1042 customer_name=An --wait
    zns send --phone 0987654321 --template 300200 order_code=DH-1042 customer_name=An --key order-1042/shipped --source order-service
    zns send --phone 0987654321 --template 300100 otp=483920 --category otp --ttl 2m --wait --json

A trace in the variables TRACEPARENT and TRACESTATE goes on in the request.`
}

// Run publishes the request and, with --wait, tells what becomes of it.
func (c *sendCmd) Run(ctx context.Context, a *App) error {
	req := c.request()
	if violations := notification.Validate(req, time.Now()); len(violations) > 0 {
		texts := make([]string, len(violations))
		for i, v := range violations {
			texts[i] = render.OneLine(v.String(), 300)
		}
		return usage(fmt.Errorf("the request breaks the hub's rules:\n  %s", strings.Join(texts, "\n  ")), "zns send --help")
	}
	value, err := requestJSON(req)
	if err != nil {
		return err
	}
	uid, _ := notification.ID(req)
	id := uid.String()

	cl, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer cl.Close()
	if err := cl.require(ctx, c.Topic); err != nil {
		return err
	}
	// The readers take their places before the request is there, so that no event can be missed.
	var follow *follower
	if c.Wait {
		if follow, err = cl.follow(ctx, waitTopics(c.Topic), kafka.FromEnd()); err != nil {
			return err
		}
		defer follow.Close()
	}
	writer, err := kafka.NewWriter(cl.opts...)
	if err != nil {
		return err
	}
	defer writer.Close()
	r := kafka.Record{Topic: c.Topic, Partition: -1, Key: []byte(notification.PartitionKey(req)), Value: value, Headers: a.traceHeaders()}
	if err := write(ctx, writer, c.Topic, r); err != nil {
		return err
	}
	if !c.Wait {
		return a.printSent(id, req)
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	return c.wait(ctx, a, follow, id, value)
}

func (c *sendCmd) request() *notificationv1.NotificationRequested {
	req := &notificationv1.NotificationRequested{
		NotificationId: c.ID, IdempotencyKey: c.Key, Source: c.Source, OaId: c.OA,
		Recipient: &notificationv1.Recipient{Phone: c.Phone}, TemplateId: c.Template, TemplateData: c.Data,
		Category:    notificationv1.Category(notificationv1.Category_value["CATEGORY_"+strings.ToUpper(c.Category)]),
		OnUnknown:   notificationv1.OnUnknown(notificationv1.OnUnknown_value["ON_UNKNOWN_"+strings.ToUpper(c.OnUnknown)]),
		OrderingKey: c.OrderingKey, Reference: c.Reference, CampaignId: c.Campaign,
	}
	if c.ID == "" && c.Key == "" {
		req.NotificationId = newID()
	}
	if !c.NotBefore.IsZero() {
		req.NotBefore = timestamppb.New(c.NotBefore)
	}
	if c.TTL != 0 {
		req.Ttl = durationpb.New(c.TTL)
	}
	return req
}

// requestJSON is the JSON form of req with the .proto's names.
func requestJSON(req *notificationv1.NotificationRequested) ([]byte, error) {
	body, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("encode the request: %w", err)
	}
	return body, nil
}

func (a *App) printSent(id string, req *notificationv1.NotificationRequested) error {
	if a.Globals.JSON {
		return a.printJSON(map[string]string{"notification_id": id, "idempotency_key": req.GetIdempotencyKey()})
	}
	fmt.Fprintln(a.Out, id)
	fmt.Fprintf(a.Err, "what becomes of it:  zns explain %s\n", id)
	return nil
}

// quietFor is how long nothing may happen before a person is told that the command still waits.
const quietFor = 4 * time.Second

// wait prints what happens to id until the phone has it, it failed, its request was put aside, or ctx ends.
func (c *sendCmd) wait(ctx context.Context, a *App, follow *follower, id string, request []byte) error {
	if !a.Globals.JSON {
		fmt.Fprintln(a.Out, id)
	}
	var last event.Kind
	told := a.Globals.JSON
	for {
		next, cancel := context.WithTimeout(ctx, quietFor)
		events, err := follow.Next(next)
		cancel()
		if err != nil && next.Err() != nil && ctx.Err() == nil {
			if !told {
				told = true
				fmt.Fprintf(a.Err, "waiting, at most %s in all; meanwhile zns explain %s tells for what\n", render.Duration(c.Timeout), id)
			}
			continue
		}
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return failed(fmt.Errorf("not delivered within %s; the last news: %s", c.Timeout, cmp.Or(string(last), "none")),
				"zns explain "+id+"   tells where it waits, or what became of it when it was asked for before")
		}
		if err != nil {
			return err
		}
		for _, e := range events {
			if e.ID != id {
				continue
			}
			if err := a.printEvent(&e); err != nil {
				return err
			}
			last = e.Kind
			switch e.Kind {
			case event.Delivered:
				return nil
			case event.Failed:
				return errQuiet
			case event.DeadLetter:
				if bytes.Equal(e.Record.Value, request) { // not another's with the same id
					return failed(errors.New("the request was put aside as a dead letter"), "zns explain "+id+"   tells what has this id")
				}
			}
		}
	}
}

// printEvent writes one event as a line.
func (a *App) printEvent(e *event.Event) error {
	if a.Globals.JSON {
		line, err := json.Marshal(e)
		if err != nil {
			return err
		}
		_, err = a.Out.Write(append(line, '\n'))
		return err
	}
	_, err := fmt.Fprintln(a.Out, e.Line(a.Style, time.Now()))
	return err
}

// waitTopics are where the fate of a request is told.
func waitTopics(input string) []string {
	return []string{topic.Sent, topic.Failed, topic.Unresolved, topic.Delivered, topic.DLQOf(input)}
}
