package cli

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/znshub/znshub/pkg/notification"
	"github.com/znshub/znshub/proto/topic"
	"github.com/znshub/znshub/services/cli/explain"
	"github.com/znshub/znshub/services/cli/find"
	"github.com/znshub/znshub/services/cli/render"
)

type findCmd struct {
	Phone     string        `help:"A phone as people write it: 0987654321, +84987654321. It is compared by its hash and never printed."`
	SHA256    string        `name:"phone-sha256" help:"The same as SHA-256 of 84987654321, in hexadecimal: keeps the phone out of the shell's history."`
	Reference string        `help:"Order or invoice number that the request named."`
	Customer  string        `help:"customer_id of the request."`
	Campaign  string        `help:"campaign_id of the request."`
	Template  string        `help:"Only this template."`
	Since     time.Duration `help:"Only what changed so long ago at most: 24h, 7d. Default: everything that zns.status keeps, 90 days."`
	Limit     int           `default:"100" help:"Print the newest so many; 0: all."`
	Topic     string        `default:"${requested}" help:"Input topic."`
	Timeout   time.Duration `default:"10m" help:"How long to search."`
}

// Help implements kong.HelpProvider.
func (findCmd) Help() string {
	return `Answers "I never got it": the notifications of a phone, a customer, an order or a campaign, the newest first, with where each stands. Those that still wait are found in the sender's ledger. The phone is never printed.

Examples:

    zns find --phone 0987654321
    zns find --phone 0987654321 --since 24h --template 300100
    zns find --reference INV-1
    zns find --campaign tet-2027 --limit 0 --json | jq -r .state | sort | uniq -c`
}

// query checks the command line.
func (c *findCmd) query() (find.Query, error) {
	q := find.Query{PhoneSHA256: strings.ToLower(c.SHA256), Reference: c.Reference, Customer: c.Customer, Campaign: c.Campaign, Template: c.Template, Input: c.Topic}
	if c.Phone != "" {
		e164, ok := notification.ParsePhone(c.Phone)
		if !ok {
			return q, usage(errors.New("--phone is no Vietnamese phone number; give one like 0987654321 or +84987654321"), "zns find --phone 0987654321")
		}
		q.Phone = e164
	}
	if sum, err := hex.DecodeString(c.SHA256); err != nil || c.SHA256 != "" && len(sum) != 32 {
		return q, usage(errors.New("--phone-sha256 is no SHA-256: 64 hexadecimal digits, of the number as 84987654321"), "printf 84987654321 | sha256sum")
	}
	if cmp.Or(q.Phone, q.PhoneSHA256, q.Reference, q.Customer, q.Campaign) == "" {
		return q, usage(errors.New("say what to look for: --phone, --phone-sha256, --reference, --customer or --campaign"), "zns find --phone 0987654321", "zns find --reference INV-1")
	}
	if c.Since < 0 || c.Limit < 0 {
		return q, usage(errors.New("--since and --limit must be positive"), "zns find --help")
	}
	if c.Since > 0 {
		q.Since = time.Now().Add(-c.Since)
	}
	return q, nil
}

// Run prints what is found; exit code 1 when there is nothing.
func (c *findCmd) Run(ctx context.Context, a *App) error {
	q, err := c.query()
	if err != nil {
		return err
	}
	cl, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer cl.Close()
	if err := cl.require(ctx, topic.Status, topic.LedgerOf(c.Topic)); err != nil {
		return err
	}
	searchCtx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	total, err := c.total(searchCtx, cl, q)
	if err != nil {
		return err
	}
	progress := a.readProgress("searching", total)
	q.Read = progress.at
	result, err := find.Search(searchCtx, explain.NewLog(cl.admin, cl.opts), q)
	progress.end()
	if err != nil {
		if searchCtx.Err() != nil && ctx.Err() == nil {
			return failed(fmt.Errorf("not done within %s", c.Timeout), "--since 24h reads less; --timeout allows more")
		}
		return failed(err)
	}
	return c.print(a, result)
}

// total is about how many records will be read.
func (c *findCmd) total(ctx context.Context, cl *cluster, q find.Query) (int64, error) {
	sum := int64(0)
	for name, since := range map[string]time.Time{topic.Status: q.Since, topic.LedgerOf(c.Topic): {}} {
		starts, err := cl.admin.StartOffsets(ctx, name)
		if err == nil && !since.IsZero() {
			starts, err = cl.admin.OffsetsAt(ctx, name, since)
		}
		if err != nil {
			return 0, err
		}
		ends, err := cl.admin.EndOffsets(ctx, name)
		if err != nil {
			return 0, err
		}
		for p, end := range ends {
			sum += end - starts[p]
		}
	}
	return sum, nil
}

func (c *findCmd) print(a *App, result find.Result) error {
	found := result.Found
	more := 0
	if c.Limit > 0 && len(found) > c.Limit {
		more = len(found) - c.Limit
		found = found[:c.Limit]
	}
	if a.Globals.JSON {
		for i := range found {
			if err := a.printJSON(&found[i]); err != nil {
				return err
			}
		}
	} else if len(found) > 0 {
		if _, err := fmt.Fprint(a.Out, findTable(a.Style, found)); err != nil {
			return err
		}
	}
	if !a.Globals.JSON {
		if more > 0 {
			fmt.Fprintf(a.Err, "%d more, older; --limit 0 prints all\n", more)
		}
		fmt.Fprint(a.Err, a.errStyle().Dim(explain.Searched(result.Searched)))
	}
	if len(found) == 0 {
		return failed(errors.New("no notification was found"),
			"zns.status holds what webhook-ingest has folded, for 90 days, and the ledger what waits",
			"with ZNS_RESULT_PHONE=none events tell no phone's hash: look by --reference or --customer")
	}
	return nil
}

func findTable(style render.Style, found []find.Found) string {
	table := render.Table{Style: style}
	table.Header("TIME", "STATE", "TEMPLATE", "REFERENCE", "CUSTOMER", "CAMPAIGN", "NOTIFICATION")
	for i := range found {
		f := &found[i]
		state, paint := f.State, style.Warn
		switch f.State {
		case "DELIVERED":
			paint = style.Good
		case "SENT":
			paint = style.Info
		case "FAILED":
			paint = style.Bad
		}
		if f.Reason != "" {
			state += " " + f.Reason
		}
		if f.Code != 0 {
			state += fmt.Sprintf(" %d", f.Code)
		}
		if f.Overdue {
			state += ", overdue"
		}
		if f.Until != nil {
			state += " until " + render.Vietnam(*f.Until)
		}
		short := func(s string) render.Cell { return render.Cell{Text: render.OneLine(s, 40)} }
		table.Cells(render.Cell{Text: render.Vietnam(f.Time), Paint: style.Dim}, render.Cell{Text: state, Paint: paint},
			short(f.Template), short(f.Reference), short(f.Customer), short(f.Campaign), render.Cell{Text: f.ID})
	}
	return table.String()
}
