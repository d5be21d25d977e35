//go:build unix

package zalo

import (
	"net"
	"syscall"
)

// canLook says that silent sees whether the other side has closed an idle connection.
const canLook = true

// silent reports whether an idle connection has nothing to be read: no end, no error and nothing that answers no
// question. A connection below which there is no socket counts as silent: writing tells.
func silent(c net.Conn) bool {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	quiet := false
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		quiet = err == syscall.EAGAIN || err == syscall.EWOULDBLOCK
		return true
	})
	return err == nil && quiet
}
