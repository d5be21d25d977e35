package sender

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/znshub/znshub/pkg/pause"
	"github.com/znshub/znshub/services/sender/limit"
)

// accessTokens are those of the OAs. A token that Zalo refused is not used again; a newer one is taken from
// ZALO_ACCESS_TOKEN_FILE or the file that ZNS_CONFIG names as soon as it stands there.
type accessTokens struct {
	limits *limit.Limits
	log    *slog.Logger

	mu     sync.RWMutex // guards what follows
	byOA   map[string]string
	change uint64
}

// tokensEvery is how often the files are looked at.
const tokensEvery = 2 * time.Second

func (t *accessTokens) get(_ context.Context, oa string) (string, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if token := t.byOA[oa]; token != "" {
		return token, nil
	}
	return "", errors.New("ZALO_ACCESS_TOKEN has none for this OA")
}

// set takes the tokens that are configured now.
func (t *accessTokens) set(byOA map[string]string) {
	t.mu.Lock()
	before := t.byOA
	t.byOA = byOA
	t.change++
	change := t.change
	t.mu.Unlock()
	t.limits.Token("", 0) // from now on an OA without a token is held
	for _, oa := range slices.Sorted(maps.Keys(byOA)) {
		if byOA[oa] != before[oa] {
			t.limits.Token(oa, change)
			if before != nil {
				t.log.Info("access token taken", "oa_id", oa)
			}
		}
	}
	for oa := range before {
		if byOA[oa] == "" {
			t.limits.Token(oa, 0)
			t.log.Warn("the OA has no access token any more", "oa_id", oa)
		}
	}
}

// watch looks for newer tokens until ctx ends. What cannot be read leaves the present ones: a file may be half written.
func (t *accessTokens) watch(ctx context.Context, reload func() (Config, error), wake func()) {
	for reload != nil && ctx.Err() == nil {
		pause.For(ctx, tokensEvery)
		cfg, err := reload()
		if err != nil || ctx.Err() != nil {
			continue
		}
		byOA, err := tokens(cfg.AccessToken, cfg.OAID)
		if err != nil {
			continue
		}
		t.mu.RLock()
		same := maps.Equal(byOA, t.byOA)
		t.mu.RUnlock()
		if !same {
			t.set(byOA)
			wake()
		}
	}
}
