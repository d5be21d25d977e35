package kafkatest

import (
	"fmt"
	"os"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/znshub/znshub/pkg/kafka/fake"
)

const fakeClusterID = "znshub-kfake"

// FakeOptions are the options of the fakes in tests. kfake applies its default retention of 7 days to compacted topics
// too, so that state topics must set retention.ms=-1, which the table in proto/topic does.
func FakeOptions() []kfake.Opt {
	return append(fake.Options(fakeClusterID), kfake.DefaultNumPartitions(1))
}

// startFake starts a fake that ends with the process. why says what keeps the real one away; the program that chose the
// fake for us knows better.
func startFake(why string) (*Server, error) {
	c, err := kfake.NewCluster(FakeOptions()...)
	if err != nil {
		return nil, fmt.Errorf("start kfake: %w", err)
	}
	s := &Server{Addr: c.ListenAddrs()[0], describe: "kfake (a fake: " + why + ")"}
	if given := os.Getenv(DescribeEnv); given != "" {
		s.describe = given
	}
	return s, nil
}
