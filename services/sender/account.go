package sender

// AccessTokens returns the access token of each OA in the settings, by the OA's id. It is empty where none is set.
func (c *Config) AccessTokens() (map[string]string, error) { return tokens(c.AccessToken, c.OAID) }
