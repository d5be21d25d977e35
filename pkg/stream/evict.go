package stream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/znshub/znshub/pkg/pause"
)

// evictPredecessor takes the member that a dead process of this instance left behind out of the group, so that its
// partitions need not wait for the end of its session. Only one that is surely dead: it was named like this one, it
// came from an address of this machine (in containers: of this pod), and no other process here holds that name.
// A process of that name elsewhere may live; its session decides. Failing to look costs time and nothing else.
func (e *Engine) evictPredecessor(ctx context.Context) {
	if !e.named {
		return // nobody before had this name
	}
	if e.instance == nil {
		e.log.Warn("another process on this machine uses this INSTANCE_ID in this group, or may: a predecessor is not evicted",
			"instance", e.cfg.InstanceID)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	dead, err := e.predecessors(ctx)
	for tries := 0; kerr.IsRetriable(err) && ctx.Err() == nil; tries++ { // a coordinator that loads
		pause.For(ctx, 50*time.Millisecond<<min(tries, 3))
		dead, err = e.predecessors(ctx)
	}
	for _, m := range dead {
		if err = e.evict(ctx, m); err != nil {
			break
		}
		e.log.Info("evicted the member that a dead process of this instance left in the group", "member", m.id)
	}
	if err != nil {
		e.log.Warn("cannot look for a dead predecessor: its partitions wait for the end of its session", "err", err)
	}
}

// predecessor is a member that a process of this instance was.
type predecessor struct {
	id       string
	consumer bool // by the protocol of KIP-848
}

// predecessors lists the members that were named like this one and came from this machine.
func (e *Engine) predecessors(ctx context.Context) ([]predecessor, error) {
	here, err := addresses()
	if err != nil {
		return nil, err
	}
	var found []predecessor
	add := func(id, client, host string, consumer bool) {
		if client == e.clientID && here[address(host)] {
			found = append(found, predecessor{id, consumer})
		}
	}
	classic, err := e.classicMembers(ctx)
	if err != nil {
		return nil, err
	}
	for _, m := range classic {
		add(m.MemberID, m.ClientID, m.ClientHost, false)
	}
	// Where classic members joined a group of KIP-848 the other question finds all of them.
	req := kmsg.NewPtrConsumerGroupDescribeRequest()
	req.Groups = []string{e.cfg.Group}
	resp, err := req.RequestWith(ctx, e.admin)
	if err != nil {
		return found, nil //nolint:nilerr // brokers that do not know the question have no such group
	}
	for _, g := range resp.Groups {
		for _, m := range g.Members {
			add(m.MemberID, m.ClientID, m.ClientHost, true)
		}
	}
	return found, nil
}

// classicMembers lists the members of the group while it is one of the classic protocol.
func (e *Engine) classicMembers(ctx context.Context) ([]kmsg.DescribeGroupsResponseGroupMember, error) {
	req := kmsg.NewPtrDescribeGroupsRequest()
	req.Groups = []string{e.cfg.Group}
	resp, err := req.RequestWith(ctx, e.admin)
	if err != nil {
		return nil, fmt.Errorf("describe the group: %w", err)
	}
	if len(resp.Groups) != 1 {
		return nil, errors.New("describe the group: the answer is not about it")
	}
	g := resp.Groups[0]
	if err := kerr.ErrorForCode(g.ErrorCode); err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		return nil, fmt.Errorf("describe the group: %w", err)
	}
	return g.Members, nil
}

// evict takes a member out of the group.
func (e *Engine) evict(ctx context.Context, m predecessor) error {
	if m.consumer {
		req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
		req.Group, req.MemberID, req.MemberEpoch = e.cfg.Group, m.id, -1
		resp, err := req.RequestWith(ctx, e.admin)
		if err == nil {
			err = kerr.ErrorForCode(resp.ErrorCode)
		}
		return gone(err)
	}
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Group, req.MemberID = e.cfg.Group, m.id
	member := kmsg.NewLeaveGroupRequestMember()
	member.MemberID = m.id
	req.Members = append(req.Members, member)
	resp, err := req.RequestWith(ctx, e.admin)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if err == nil {
		for _, member := range resp.Members {
			err = errors.Join(err, gone(kerr.ErrorForCode(member.ErrorCode)))
		}
	}
	return gone(err)
}

// gone is err unless that says that the member is not there any more.
func gone(err error) error {
	if errors.Is(err, kerr.UnknownMemberID) || errors.Is(err, kerr.GroupIDNotFound) {
		return nil
	}
	return err
}

// addresses are those of this machine's, or this container's, interfaces.
func addresses() (map[netip.Addr]bool, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list this machine's addresses: %w", err)
	}
	here := map[netip.Addr]bool{}
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok {
				here[ip.Unmap()] = true
			}
		}
	}
	return here, nil
}

// address parses how a broker writes a client's address: "/10.0.0.7", with a name before the slash if it has one.
func address(host string) netip.Addr {
	ip, err := netip.ParseAddr(host[strings.LastIndexByte(host, '/')+1:])
	if err != nil {
		return netip.Addr{}
	}
	return ip.Unmap()
}

// holdInstance claims this instance's name in this cluster and group among the processes of this machine, or of this
// container, until the listener is closed: the kernel gives the name back when a process dies, however it dies.
// nil: another process has it, or there is no such thing on this system.
func (e *Engine) holdInstance(ctx context.Context) net.Listener {
	if runtime.GOOS != "linux" || !e.named {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	meta, err := e.adm.BrokerMetadata(ctx)
	if err != nil {
		return nil
	}
	// A socket in Linux's abstract namespace, which belongs to the network namespace like the addresses do.
	l, err := new(net.ListenConfig).Listen(ctx, "unix", "@znshub/"+meta.Cluster+"/"+e.clientID)
	if err != nil {
		return nil
	}
	return l
}
