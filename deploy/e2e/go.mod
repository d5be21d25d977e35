module github.com/znshub/znshub/deploy/e2e

go 1.26.0

replace (
	github.com/znshub/znshub/pkg => ../../pkg
	github.com/znshub/znshub/proto => ../../proto
	github.com/znshub/znshub/services => ../../services
)
